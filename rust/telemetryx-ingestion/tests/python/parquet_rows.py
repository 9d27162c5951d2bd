"""Reads the files of the sink `parquet` below a folder with DuckDB, and prints each row as a line of JSON: what is in the
file, and under `folder` what DuckDB makes of the names of its folders."""

import json
import sys

import duckdb

FILES = sys.argv[1] + "/type=*/date=*/hour=*/*.parquet"


def rows(connection, files, columns, **options):
    settings = "".join(f", {name}={value}" for name, value in options.items())
    query = f"SELECT {columns} FROM read_parquet(?, filename=true, file_row_number=true{settings}) ORDER BY filename, file_row_number"
    found = connection.execute(query, [files])
    names = [column[0] for column in found.description]
    return [dict(zip(names, row)) for row in found.fetchall()]


def main():
    connection = duckdb.connect()
    # More may come while it looks.
    files = [file for (file,) in connection.execute("SELECT file FROM glob(?)", [FILES]).fetchall()]
    if not files:
        return
    inside = rows(connection, files, "id, epoch_ns(ts) AS ts, type, source, schema_version, partition_key, attributes, payload, "
                  "epoch_ns(received_at) AS received_at, filename", hive_partitioning="false")
    outside = rows(connection, files, "type, CAST(date AS VARCHAR) AS date, CAST(hour AS INTEGER) AS hour", hive_partitioning="true",
                   hive_types="{'type': VARCHAR}")
    for row, folder in zip(inside, outside, strict=True):
        print(json.dumps(row | {"folder": folder}))


main()
