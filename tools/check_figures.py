#!/usr/bin/env python3
"""Holds figures in documents against what their commands give now.

check_figures.py [--slow] [--update] [--program PATH] [FILE.md ...]   (all experiments' READMEs)

A comment says where figures come from; what a reader sees is what is checked, to the digits that are
there. Three forms, several of them in one comment if need be:

  <!-- figures
  columns: step [s] = step_time_s; bubble = bubble_fraction
  folded: rehearse simulate plan.yaml --fold
  slow all: rehearse simulate plan.yaml
  -->
The next table: in the row of each label (its first cell) the columns with these headings, against the
command's --json (a path a.b, a.0.b; `max:` before it: the largest of a list, a.*.b).

  <!-- figures
  prints: experiments/x/run.py
  -->
The next table's rows, which the command prints.

  <!-- figures
  $ rehearse plan --model deepseek-v3 --cluster h800-2048
  layouts_legal = 3,884,166
  -->
Numbers of the command's --json, each of which also stands in the text outside of comments.

Commands run in the project's root; `rehearse` is the built program. `slow` before a label, `prints` or `$`:
only with --slow (more than a few seconds). Exit code 1: some figure is another now. Sizes and steps that follow from
models are checked, times of the machine that ran them are not.
"""
import argparse
import json
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMENT = re.compile(r"<!-- figures\n(.*?)-->\n?", re.S)


class Slip(Exception):
    """A comment that says something wrong."""


class Skip(Exception):
    """A command that cannot run here."""


class Runner:
    def __init__(self, program):
        self.program = program
        self.answers = {}

    def text(self, command, *more):
        key = (command, *more)
        if key not in self.answers:
            words = [*shlex.split(command), *more]
            if words[0] == "rehearse":
                words[0] = str(self.program)
            else:
                words[0] = str(ROOT / words[0])
                if words[0].endswith(".py"):
                    words.insert(0, "/usr/bin/python3")  # the one that setup.sh installs modules for
            done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if missing := re.search(r"(ModuleNotFoundError: .*|\S+ is not installed.*)", done.stderr):
                raise Skip(f"{command}: {missing.group(1)}")
            if done.returncode != 0:
                raise Slip(f"{command}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")
            self.answers[key] = done.stdout
        return self.answers[key]

    def json(self, command):
        return json.loads(self.text(command, "--json"))


def look_up(value, path):
    def walk(v, keys):
        for i, key in enumerate(keys):
            if key == "*":
                return [walk(one, keys[i + 1:]) for one in v]
            v = v[int(key)] if isinstance(v, list) else v[key]
        return v
    try:
        found = walk(value, path.removeprefix("max:").split("."))
    except (KeyError, IndexError, TypeError, ValueError):
        raise Slip(f"the answer has no '{path}'") from None
    return max(found) if path.startswith("max:") else found


def same(shown, value):
    """Whether a number as it is shown ("3,884,166", "6.1%", "4.2e+09", "19.38 s") is the value, rounded."""
    number = re.match(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?", shown.replace("**", ""))
    if not number or isinstance(value, (str, bool)) or value is None:
        return shown == str(value)
    text = number.group().replace(",", "")
    after = shown.replace("**", "")[number.end():].strip()
    if after.startswith("%"):
        value = 100 * value
    elif after[:1] in ("K", "M", "G") and not after[1:2].isalpha():
        value = value / {"K": 1e3, "M": 1e6, "G": 1e9}[after[0]]
    digits, _, exponent = text.partition("e")
    decimals = len(digits.partition(".")[2])
    if exponent:  # as %.3g, which leaves out zeros at the end
        decimals = 2
    unit = 10.0 ** (int(exponent or 0) - decimals)
    return abs(float(text) - value) <= 0.5 * unit * (1 + 1e-6)


def as_shown(shown, value):
    """The value in the place of the number that is shown, in its form."""
    number = re.search(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?", shown)
    text = number.group()
    if shown[number.end():].strip().startswith("%"):
        value = 100 * value
    decimals = len(text.partition("e")[0].partition(".")[2])
    form = "{:.3g}" if "e" in text else "{:,.%df}" % decimals if "," in text else "{:.%df}" % decimals
    return shown[:number.start()] + form.format(value) + shown[number.end():]


def rows_of(table):
    """Cells of a Markdown table's lines, the line of dashes left out."""
    rows = [[c.strip() for c in line.strip().strip("|").split("|")] for line in table]
    return [r for r in rows if not all(re.fullmatch(r":?-+:?", c) for c in r)]


def next_table(text):
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith("|")), None)
    if begin is None:
        raise Slip("no table behind the comment")
    end = next((i for i in range(begin, len(lines)) if not lines[i].startswith("|")), len(lines))
    return lines[begin:end]


def check_columns(runner, lines, table, slow):
    """Yields what is another now, with its line as it would be right, and how many figures were held."""
    columns = [c.split("=") for c in lines[0].partition(":")[2].split(";")]
    columns = [(heading.strip(), path.strip()) for heading, path in columns]
    rows = rows_of(table)
    behind_dashes = [line for line in table if line.strip().strip("|").replace("|", "").strip("-: ")]
    for heading, _ in columns:
        if heading not in rows[0]:
            raise Slip(f"the table has no column '{heading}'")
    held = 0
    for line in lines[1:]:
        label, _, command = line.partition(": ")
        if label.startswith("slow "):
            if not slow:
                continue
            label = label.removeprefix("slow ")
        row = next((r for r in rows[1:] if r[0].replace("*", "") == label), None)
        if row is None:
            raise Slip(f"the table has no row '{label}'")
        answer = runner.json(command)
        line = behind_dashes[rows.index(row)]
        right = list(row)
        wrong = []
        for heading, path in columns:
            shown = row[rows[0].index(heading)]
            if shown in ("", "-"):
                continue
            value = look_up(answer, path)
            held += 1
            if not same(shown, value):
                right[rows[0].index(heading)] = as_shown(shown, value)
                wrong.append(f"{label}, {heading}: {shown}; now {value:.6g}   ({command})")
        for one in wrong:
            yield one
        if wrong:
            yield line, "| " + " | ".join(right) + " |"
    yield held


def check_prints(runner, command, table):
    printed = {re.sub(r"\s+", " ", line.strip()) for line in runner.text(command).splitlines()}
    rows = [line for line in table[2:]]
    for line in rows:
        if re.sub(r"\s+", " ", line.replace("**", "").strip()) in printed:
            continue
        near = [p for p in printed if p.split("|")[1:2] == line.split("|")[1:2]]
        yield f"{line.strip()}; now {near[0] if near else 'not printed'}   ({command})"
    yield len(rows)


def check_text(runner, command, lines, text):
    answer = runner.json(command)
    for line in lines:
        path, _, shown = (part.strip() for part in line.partition(" = "))
        if not re.search(r"(?<![\d.,])" + re.escape(shown) + r"(?![\d])", text):
            yield f"{path}: {shown} stands nowhere in the text"
        value = look_up(answer, path)
        if not same(shown, value):
            yield f"{path}: {shown}; now {value:.6g}   ({command})"
    yield len(lines)


def check_comment(runner, lines, behind, text, slow):
    i = 0
    while i < len(lines):
        skip = lines[i].startswith("slow ") and not slow
        first = lines[i].removeprefix("slow ")
        end = i + 1
        if first.startswith("columns:"):
            end = len(lines)
            yield from check_columns(runner, lines[i:end], next_table(behind), slow)
        elif first.startswith("prints: "):
            if not skip:
                yield from check_prints(runner, first.removeprefix("prints: "), next_table(behind))
        elif first.startswith("$ "):
            while end < len(lines) and " = " in lines[end] and not lines[end].startswith("$ "):
                end += 1
            if not skip:
                yield from check_text(runner, first.removeprefix("$ "), lines[i + 1:end], text)
        else:
            raise Slip(f"'{lines[i]}': expected columns:, prints: or $")
        i = end


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", action="store_true", help="commands that take longer, too")
    parser.add_argument("--update", action="store_true", help="put what tables' columns are now into the files")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/rehearse")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    args = parser.parse_args()
    runner = Runner(args.program.resolve())
    held = wrong = 0
    for path in args.files or sorted(ROOT.glob("experiments/*/README.md")):
        text = path.read_text()
        visible = re.sub(r"<!--.*?-->", "", text, flags=re.S)
        for comment in COMMENT.finditer(text):
            line = text.count("\n", 0, comment.start()) + 1
            try:
                found = check_comment(runner, comment.group(1).strip().splitlines(), text[comment.end():],
                                      visible, args.slow)
                for one in found:
                    if isinstance(one, int):
                        held += one
                        continue
                    if isinstance(one, tuple):
                        if args.update:
                            path.write_text(path.read_text().replace(*one, 1))
                        continue
                    wrong += 1
                    print(f"{path}:{line}: {one}")
            except Skip as skip:
                print(f"{path}:{line}: not checked: {skip}")
            except Slip as slip:
                wrong += 1
                print(f"{path}:{line}: {slip}")
    print(f"{held} figures, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
