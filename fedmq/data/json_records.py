"""Tables in files of JSON: a list of records, or one record a line."""

from pathlib import Path
from typing import Any

import msgspec

from fedmq.data.limits import check_bytes, check_columns, check_values, decompressed, open_file
from fedmq.errors import BadData
from fedmq.tables.table import Table


def read_json(path: Path) -> Table:
    """Read records; a field that a record does not have is an empty cell.

    Raises:
        BadData: the file cannot be read, or is not a list of records, or a field holds a list or the like.
    """
    with open_file(path) as file:
        content = decompressed(file, path).read()
        check_bytes(len(content), path)
        listed: Any
        try:
            listed = msgspec.json.decode(content)
            if isinstance(listed, dict):
                listed = [listed]
        except msgspec.DecodeError:
            listed = msgspec.json.Decoder().decode_lines(content)
    if not isinstance(listed, list) or not listed or not all(isinstance(record, dict) for record in listed):
        raise BadData(f'{path}: expected a list of records such as [{{"age": 40, "ill": true}}], got another value')
    names = list(dict.fromkeys(name for record in listed for name in record))
    check_columns(len(names), path)
    check_values(len(listed) * len(names), path)
    return Table.from_frame({name: [record.get(name) for record in listed] for name in names}, str(path))
