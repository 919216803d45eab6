"""check_figures.py finds figures that are another now, and no others. check_figures_test.py SOURCE_DIR"""

import pathlib
import stat
import subprocess
import sys
import tempfile

PROGRAM = """#!/usr/bin/python3
import json, sys
scale = 2 if "--double" in sys.argv else 1
print(json.dumps({"step": 19.3849 * scale, "share": 0.06149, "bytes": 4.2049e9, "count": 3884166,
                  "ranks": [{"total": 1.5}, {"total": 72.8049}]}))
"""
DOCUMENT = """# A document
<!-- figures
columns: step [s] = step; share = share; bytes = bytes; most = max:ranks.*.total
once: rehearse simulate a.yaml
slow twice: rehearse simulate a.yaml --double
-->
| | step [s] | share | bytes | most |
|---|---|---|---|---|
| **once** | **19.385 s** (+1%) | 6.1% | 4.2e+09 | 72.80 |
| twice | 38.77 | 6.15% | 4.2e+09 | 72.80 |

<!-- figures
$ rehearse simulate a.yaml
count = 3,884,166
step = 19.38
-->
Of 3,884,166 layouts the first takes 19.38 s.
"""


def main():
    source = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        program = folder / "program"
        program.write_text(PROGRAM)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        document = folder / "README.md"

        def check(text, *options):
            document.write_text(text)
            done = subprocess.run([sys.executable, source / "tools/check_figures.py", "--program", program, *options,
                                   document], capture_output=True, text=True)
            assert done.returncode in (0, 1), done.stderr
            return done.returncode, done.stdout

        def wrong(what, *texts, options=()):
            code, said = check(what, *options)
            assert code == 1, said
            for text in texts:
                assert text in said, f"{text!r} is not in {said}"

        code, said = check(DOCUMENT)
        assert code == 0 and "6 figures, 0 wrong" in said, said
        code, said = check(DOCUMENT, "--slow")
        assert code == 0 and "10 figures, 0 wrong" in said, said
        wrong(DOCUMENT.replace("19.385 s", "19.384 s"), ":2: once, step [s]: ", "now 19.3849")
        wrong(DOCUMENT.replace("6.1%", "6.2%"), "once, share: 6.2%; now 0.06149")
        wrong(DOCUMENT.replace("| 4.2e+09 | 72.80 |\n| twice", "| 4.3e+09 | 72.80 |\n| twice"), "once, bytes: 4.3e+09")
        wrong(DOCUMENT.replace("38.77", "38.76"), "twice, step [s]: 38.76; now 38.7698", options=("--slow",))
        code, said = check(DOCUMENT.replace("38.77", "38.76"))
        assert code == 0, said
        # A figure that the text does not have any more, or the comment alone has.
        wrong(DOCUMENT.replace("first takes 19.38 s", "first takes 19.37 s"), "step: 19.38 stands nowhere in the text")
        wrong(DOCUMENT.replace("count = 3,884,166", "count = 3,884,167").replace("Of 3,884,166", "Of 3,884,167"),
              "count: 3,884,167; now ")
        # Comments that say something wrong.
        wrong(DOCUMENT.replace("step [s] = step;", "steps = step;"), "the table has no column 'steps'")
        wrong(DOCUMENT.replace("once: rehearse", "never: rehearse"), "the table has no row 'never'")
        wrong(DOCUMENT.replace("share = share", "share = shares"), "the answer has no 'shares'")
        # What is updated is right.
        check(DOCUMENT.replace("19.385 s", "7.000 s").replace("6.1%", "9.9%"), "--update")
        assert document.read_text() == DOCUMENT, document.read_text()
    print("passed")


main()
