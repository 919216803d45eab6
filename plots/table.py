#!/usr/bin/env python3
"""Prints chosen fields of result files (of --json) as a Markdown table, one row per file.

usage: table.py --fields step_time_s:s:%.3f,bubble_fraction:bubble:%.3f NAME=FILE ...
A field is a path into the JSON (a.b, a.0.b), a heading and a format; `max:` before the path takes the
largest over a list (max:memory_bytes.*.total)."""
import argparse
import json


def look_up(value, path):
    for i, key in enumerate(path):
        if key == "*":
            return [look_up(v, path[i + 1 :]) for v in value]
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", required=True)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    args = parser.parse_args()
    fields = [f.rsplit(":", 2) for f in args.fields.split(",")]
    print("| |" + "|".join(f" {heading} " for _, heading, _ in fields) + "|")
    print("|---|" + "---|" * len(fields))
    for given in args.files:
        name, _, path = given.partition("=")
        with open(path) as f:
            result = json.load(f)
        cells = []
        for path, _, form in fields:
            largest = path.startswith("max:")
            value = look_up(result, path.removeprefix("max:").split("."))
            cells.append(form % (max(value) if largest else value))
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
