"""The work of a cluster in this process."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq

from funnelformer.spread.table_parts import PartMaker, scan_for
from funnelformer.spread.work_items import first_rows


def rows_made(job, data, out, rows_per_part):
    """The rows of the parts that workers make of some data, with their source and number, in their order."""
    sources = job.sources(str(data))
    job.prepare(first_rows(sources[0], 10, job.reader))
    scans = [scan_for(job, [field.name for field in job.fields()], rows_per_part, name) for name in sources]
    schema = pa.unify_schemas([scanned.schema for scanned in scans])
    maker = pickle.loads(pickle.dumps(PartMaker(job, schema, str(out))))
    rows = []
    for scanned in scans:
        for item in scanned.items:
            maker(item)
            rows += pq.read_table(out / "parts" / item.part).to_pylist()
    return rows
