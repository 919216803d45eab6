"""Reads TensorBoard event files from their format's description and prints them as JSON lines.

read_events.py FOLDER: {"step", "file_version" or "status" or "values": {tag: value}} per event.
Ends with 1 where a record's checksum is wrong. Nothing of rehearse is in it.
"""

import json
import pathlib
import struct
import sys


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
        elif kind == 2:
            length = varint()
            value = data[at:at + length]
            at += length
        else:
            size = {1: 8, 5: 4}[kind]
            value = data[at:at + size]
            at += size
        yield key >> 3, value


def main():
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*tfevents*")):
        data = path.read_bytes()
        at = 0
        while at < len(data):
            length, check = struct.unpack("<QI", data[at:at + 12])
            assert check == masked(data[at:at + 8]), f"{path}: byte {at}"
            event = data[at + 12:at + 12 + length]
            (check,) = struct.unpack("<I", data[at + 12 + length:at + 16 + length])
            assert check == masked(event), f"{path}: byte {at}"
            at += 16 + length
            out = {"step": 0}
            for number, value in fields(event):
                if number == 1:
                    out["time"] = struct.unpack("<d", value)[0]
                elif number == 2:
                    out["step"] = value
                elif number == 3:
                    out["file_version"] = value.decode()
                elif number == 7:
                    out["status"] = dict(fields(value))[1]
                elif number == 5:
                    scalars = (dict(fields(one)) for _, one in fields(value))
                    out["values"] = {s[1].decode(): struct.unpack("<f", s[2])[0] for s in scalars}
            print(json.dumps(out))


main()
