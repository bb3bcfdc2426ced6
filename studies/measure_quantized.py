"""Measure what JALAD chooses from: accuracy and coded bits of the trained network, cut anywhere, at few bits a value.

    python studies/measure_quantized.py --data DIR --base base.safetensors [--records RECORDS] [--out FILE]
        [--widths 2,4,6,8] [--threads 1]

Takes minutes on a CPU. Writes a small Parquet table that ``coinfer_ray.methods.jalad`` reads, by default the one
that ships beside the records, and prints it. Images and base network are those of the records.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from coinfer_ray.cli import EXIT_INTERRUPTED, explain
from coinfer_ray.methods.jalad import quantized_path, write_quantized
from coinfer_ray.records.store import read_records, shipped_records
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.training.base import build_base
from coinfer_ray.training.data import load_data
from coinfer_ray.training.memory import keep_freed_memory
from coinfer_ray.training.quantized import QuantizedCut, measure_cut
from coinfer_ray.training.trainer import Preprocess
from coinfer_ray.training.verifier import obtain_base
from coinfer_ray.training.worker import graph_for


def main() -> int:
    arguments = parse()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records = read_records(arguments.records or shipped_records(arguments.model))
    splits = load_data(arguments.data)
    base = obtain_base(arguments.base, arguments.records, records.info, splits)
    graph = graph_for(records.model, records.input_px, splits)
    network = build_base(base, graph.classes).to(device).to(memory_format=torch.channels_last)
    settings = records.settings
    rows: list[QuantizedCut] = []
    inner = graph.cut_points[1:-1]
    with Progress("cuts", len(inner)) as progress:
        for point in inner:
            rows += measure_cut(
                network,
                graph,
                point,
                arguments.widths,
                train=splits.train,
                validation=splits.validation.take(slice(0, settings["validation_images"])),
                test=splits.test.take(slice(0, settings["test_images"])),
                preprocess=Preprocess.of(splits, graph.input_px),
                device=device,
            )
            progress.advance()
    info = {
        "model": records.model,
        "input_px": records.input_px,
        "base_validation_accuracy": records.base_accuracy("validation"),
        "base_test_accuracy": records.base_accuracy("test"),
        **{
            name: settings[name]
            for name in ("base_fingerprint", "data", "data_fingerprint", "validation_images", "test_images")
        },
    }
    out = arguments.out or quantized_path(records.model, records.input_px)
    write_quantized(out, [asdict(row) for row in rows], info)
    print(f"{records.model}, {records.input_px} px: base {info['base_validation_accuracy']:.4f} (validation)")
    print("cut after          bits  validation    test   packed bit    coded bit  of 32-bit floats")
    for row in rows:
        floats = 32 * graph.layers[row.partition_point - 1].output_elements
        print(
            f"{graph.cut_name(row.partition_point):18} {row.bits:4}  {row.validation_accuracy:10.4f}  "
            f"{row.test_accuracy:6.4f}  {row.plain_bit:11,}  {row.coded_bit:11,.0f}  {row.coded_bit / floats:16.3f}"
        )
    print(f"written to {out}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--records", type=Path, help="default: the shipped ones")
    parser.add_argument("--out", type=Path, help="default: beside the shipped records")
    parser.add_argument("--widths", type=lambda text: [int(part) for part in text.split(",")], default=[2, 4, 6, 8])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        status, message = explain(error)
        print(f"measure_quantized: {message}", file=sys.stderr)
        sys.exit(status)
