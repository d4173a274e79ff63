"""Reads Tulle's blocks with DuckDB and with ClickHouse's engine, as a user would.

In, as JSON: {"files": GLOB, "file": one of them, "questions": [{"name", "where": {engine: conditions}}]}.
Out, as JSON: {"versions": {engine: text}, "answers": {engine: [{"spans", "duration", "first"}]}, "skips": [{"what", "count"}]}; what ends in "(none)" must be 0, all else must not.
"""
import json
import re
import sys

import chdb.session
import duckdb

ABSENT = "7fffffffffffffffffffffffffffff01"  # between the bounds of any block of some size, so that only a bloom filter excludes it
SELECT = ("SELECT count(*) AS spans, coalesce(sum(greatest(duration_nano, 0)), 0) AS duration, coalesce(min(start_unix_nano), 0) AS first "
          "FROM {source} WHERE {where}")


def ask_duckdb(job):
    db = duckdb.connect()
    answers = []
    for q in job["questions"]:
        row = db.execute(SELECT.format(source=f"read_parquet('{job['files']}')", where=q["where"]["duckdb"])).fetchone()
        answers.append(dict(zip(("spans", "duration", "first"), (int(v) for v in row))))
    def scanned(where):
        """How many row groups of one file were looked into; DuckDB tells when it explains what it did."""
        plan = db.execute("EXPLAIN ANALYZE " + SELECT.format(source=f"read_parquet('{job['file']}')", where=where)).fetchall()[0][1]
        return int(re.search(r"Row Groups Scanned: (\d+) / \d+", plan).group(1))

    there = db.execute(f"SELECT hex(trace_id) FROM read_parquet('{job['file']}') LIMIT 1").fetchone()[0]
    return answers, {
        "DuckDB: row groups read for a trace that is there": scanned(f"trace_id = from_hex('{there}')"),
        "DuckDB: row groups read for a trace that is not (none)": scanned(f"trace_id = from_hex('{ABSENT}')"),
        "DuckDB: row groups read for a span that is not, which has no bloom": scanned(f"span_id = from_hex('{ABSENT[:16]}')"),
    }


def ask_clickhouse(job):
    db = chdb.session.Session()

    def rows(sql):
        return [json.loads(line) for line in str(db.query(sql, "JSONEachRow")).splitlines() if line]

    def event(name):
        return sum(int(r["value"]) for r in rows(f"SELECT value FROM system.events WHERE event = '{name}'"))

    def counted(name, where):
        """By how much a counter of the reader grew with one query of one file."""
        before = event(name)
        rows(SELECT.format(source=f"file('{job['file']}', Parquet)", where=where))
        return event(name) - before

    answers = []
    for q in job["questions"]:
        row = rows(SELECT.format(source=f"file('{job['files']}', Parquet)", where=q["where"]["clickhouse"]))[0]
        answers.append({k: int(v) for k, v in row.items()})
    absent = f"trace_id = toFixedString(unhex('{ABSENT}'), 16)"
    first, last = (int(v) for v in rows(f"SELECT min(start_unix_nano), max(start_unix_nano) FROM file('{job['file']}', Parquet)")[0].values())
    end = f"start_unix_nano > {last - (last - first) // 50}"
    skips = {
        "ClickHouse: pages read for a trace that is not (none)": counted("ParquetReadPages", absent),
        "ClickHouse: the same with blooms off": counted("ParquetReadPages", absent + " SETTINGS input_format_parquet_bloom_filter_push_down = 0"),
        "ClickHouse: pages skipped by their bounds for the last 2 % of the time": counted("ParquetPrunedPages", end),
        "ClickHouse: the same with page bounds off (none)": counted("ParquetPrunedPages", end + " SETTINGS input_format_parquet_page_filter_push_down = 0"),
    }
    version = rows("SELECT version() AS v")[0]["v"]
    db.close()
    return answers, skips, version


def main():
    job = json.load(sys.stdin)
    duck, duck_skips = ask_duckdb(job)
    click, click_skips, version = ask_clickhouse(job)
    json.dump({
        "versions": {"duckdb": "DuckDB " + duckdb.__version__, "clickhouse": "ClickHouse " + version},
        "answers": {"duckdb": duck, "clickhouse": click},
        "skips": [{"what": k, "count": v} for k, v in (duck_skips | click_skips).items()],
    }, sys.stdout)


main()
