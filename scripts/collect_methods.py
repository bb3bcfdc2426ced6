"""Train what the compared methods choose from, each in its own way, and pack it beside the shipped records.

    python scripts/collect_methods.py --model alexnet --data DIR --out FOLDER [--methods two_step,fpgm] [--pack FILE]

Base network, images and recipe are those of the records (default: those that ship). Killed, it goes on when the same
command is given again; what ships already is not trained again. --seconds starts nothing after so long, so that it
can run in slices. Prints a table: trainings of each method, their images and seconds, and the medians of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.records.choices import SHARDS, choices_path, pack_choices, read_choices
from coinfer_ray.records.store import read_records, shipped_records
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.training.compared.collect import TRAININGS, collect_choices
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import obtain_base
from coinfer_ray.training.worker import gpu_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--records", type=Path, help="default: the shipped ones")
    parser.add_argument("--base", type=Path, help="their base network; default: the one beside them")
    parser.add_argument("--out", type=Path, required=True, help="folder: one file for each training")
    parser.add_argument("--methods", default=",".join(TRAININGS), help="default: %(default)s")
    parser.add_argument("--most", type=int, help="trainings of each method's plan")
    parser.add_argument("--repeats", type=positive_int, default=1, help="of each, from other seeds")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--pack", type=Path, help="default: beside the shipped records")
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()
    source = given.records or shipped_records(given.model)
    info, data = read_records(source).info, load_data(given.data)
    base = obtain_base(given.base, source, info, data)
    shipped = choices_path(given.model, info.input_px)
    pack = given.pack or shipped
    # A pack of one's own, made by this script, holds what ships as well; other records have another base network.
    there = [path for path in ((pack, shipped) if given.records is None else (pack,)) if path.exists()]
    start = there[0] if there else None
    with make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor:
        collect_choices(
            given.methods.split(","),
            info,
            data,
            base,
            executor,
            given.out,
            known=None if start is None else read_choices(start),
            most=given.most,
            repeats=given.repeats,
            seconds=given.seconds,
        )
    new = [given.out] if list(given.out.glob(SHARDS)) else []
    table = pack_choices([*([] if start is None else [start]), *new], pack)
    rows = table.table.to_pylist()
    print(f"{'method':12} {'trainings':>9} {'choices':>8} {'images':>10} {'each':>7} {'seconds':>8} {'each':>6}")
    for method in table.methods:
        own = [row for row in rows if row["method"] == method]
        each = {(row["asked"], row["seed"]): row for row in own}.values()
        images, seconds = [row["images"] for row in each], [row["wall_s"] for row in each]
        counted = f"{sum(images):10,} {median(images):7,.0f} {sum(seconds):8,.0f} {median(seconds):6,.0f}"
        print(f"{method:12} {len(each):9} {len(own):8} {counted}")
    print(f"written to {pack}")


if __name__ == "__main__":
    run_script(main)
