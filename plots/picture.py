"""Writes what the other scripts draw: whole, or not at all.

A picture is made in memory, then written into a file that has no name yet, and takes the place of the
old one at once: after a full disk or a kill at any moment the old picture is there, and nothing else.
"""
import contextlib
import io
import os
import signal
import stat
import sys


def add_arguments(parser, out):
    """The options --out and --format; out: the default name."""
    parser.add_argument("--out", default=out, help="file to write, - for standard output (default: %(default)s)")
    parser.add_argument("--format", help="such as png or svg (default: as the name of --out ends)")


def save(figure, out, form=None, dpi=120):
    """Writes a figure to the file `out`, in the format that its name ends with, or to standard output."""
    form = form or os.path.splitext(out)[1].lstrip(".").lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if form not in known:
        sys.exit(f"{out}: a picture's format is one of {', '.join(sorted(known))}")
    memory = io.BytesIO()
    figure.savefig(memory, format=form, dpi=dpi)
    if out == "-":
        try:
            sys.stdout.buffer.write(memory.getvalue())
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # who wanted it is gone
            os._exit(1)
        return
    try:
        replace(out, memory.getvalue())
    except OSError as error:
        sys.exit(f"{out}: cannot be written: {error.strerror}")


def replace(path, contents):
    """Links are followed; a file that is there hands on its permissions, and stays without any to write."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    permissions = None
    if os.path.exists(target):
        permissions = stat.S_IMODE(os.stat(target).st_mode)
        if not permissions & 0o222 or not os.access(target, os.W_OK):
            sys.exit(f"{path}: cannot be written: it is there and has no write permission")
    os.makedirs(folder, exist_ok=True)
    beside = f"{target}.{os.getpid()}.part"
    # Whoever asks us to end waits until the file with a name, if there is one, is gone.
    before = {s: signal.signal(s, lambda number, _: sys.exit(128 + number)) for s in (signal.SIGINT, signal.SIGTERM)}
    named = False
    try:
        try:
            file = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
        except (OSError, AttributeError):  # a file system that has none without a name
            named = True
            file = os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
        with os.fdopen(file, "wb") as f:
            f.write(contents)
            f.flush()
            if permissions is not None:
                os.fchmod(f.fileno(), permissions)
            if not named:
                named = True
                # A folder to begin at, though the path is absolute, or Python does not follow the link.
                os.link(f"/proc/self/fd/{f.fileno()}", beside, src_dir_fd=f.fileno(), follow_symlinks=True)
        os.replace(beside, target)
    finally:
        if named:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        for s, handler in before.items():
            signal.signal(s, handler)
