"""The page of the evaluation: sections, figures and tables from the parts' rows."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from coinfer_ray.methods.prune_partition import PrunePartition
from coinfer_ray.records.choices import choices_path, read_choices
from coinfer_ray.records.store import read_records, shipped_parts
from coinfer_ray.report.model import Figure, Page, Section, TableView
from coinfer_ray.reproduce import figures
from coinfer_ray.reproduce.claims import ratios
from coinfer_ray.reproduce.learning import learning_parts
from coinfer_ray.reproduce.measured import noise_figure, optimizer_figures, promise_figure, trainings_table
from coinfer_ray.reproduce.parts import MODELS, Rows
from coinfer_ray.reproduce.rows import MAX_LOSS, OURS, PAPER, SETTINGS, Row
from coinfer_ray.reproduce.tables import layers_table, regressors_table, settings_table

Parts = list[Figure | TableView]


def build_page(parts: Mapping[str, Rows], command: str) -> Page:
    """The page of all ``parts`` (:data:`coinfer_ray.reproduce.parts.PARTS`); ``command`` makes it."""
    rows = {name: [Row(**row) for row in parts[name]] for name in _ANSWERS}
    sections = [
        Section(
            "The claims",
            "The paper's figures beside ours. Ours count only strategies that were really trained and whose measured "
            "accuracy keeps the bound with a margin; every method is held to it by the same means.",
            [
                figures.claims_table(_in([*rows["rates"], *rows["noise"]], setting=PAPER.name), command),
                figures.wins_table([*rows["rates"], *rows["noise"]], command),
            ],
        ),
        Section(
            "Where to cut",
            "Before anything is trained: the paper's Fig. 6, which the cost model gives within 4 % of what it prints.",
            [
                figures.partition_figure(rows["partition"], command),
                figures.partition_table(rows["partition"], command),
            ],
        ),
        *(_setting_section(rows, setting.name, command) for setting in SETTINGS),
        Section(
            "Through noise",
            "Fig. 11, AlexNet alone. BottleNet++, whose codec was not trained for noise, and JALAD, which sends no "
            "floats, leave the network as it is.",
            [noise_figure(rows["noise"], command)] if rows["noise"] else [],
        ),
        Section(
            "Whether it is true",
            "What a default answer promises, and what training it anew from another seed gives.",
            [promise_figure(parts["promises"], command)] if parts["promises"] else [],
        ),
        Section(
            "The optimizers",
            "All on the same predictions: how far each ends from the proven best, and what its search costs.",
            list(optimizer_figures(parts["optimizers"], command)) if parts["optimizers"] else [],
        ),
        Section(
            "The agent",
            "Whether CIA's agent, in our reconstruction, learns anything that as many random decisions do not come to.",
            learning_parts(parts["learning"], command),
        ),
        Section(
            "What it rests on",
            "How costs are counted, the devices and links, the regressors, and what was trained.",
            [
                trainings_table(parts["trained"], command),
                *([regressors_table(parts["regressors"], command)] if parts["regressors"] else []),
                settings_table(command),
                layers_table("alexnet", command),
            ],
        ),
    ]
    return Page(
        title="Collaborative inference: the paper's evaluation, made again",
        lead=_lead(rows["rates"]),
        sections=[section for section in sections if section.parts],
        provenance={figures.network(model): _provenance(model) for model in MODELS},
    )


_ANSWERS = ("partition", "links", "rates", "place", "noise", "losses", "winners")


def _setting_section(rows: Mapping[str, list[Row]], setting: str, command: str) -> Section:
    chosen = next(each for each in SETTINGS if each.name == setting)
    parts: Parts = []
    for model in MODELS:
        parts.append(figures.rate_figure(_in(rows["rates"], setting=setting, model=model), model, chosen, command))
    for model in MODELS:
        parts.append(figures.place_figure(_in(rows["place"], setting=setting, model=model), model, chosen, command))
    for model in MODELS:
        parts.append(figures.loss_figure(_in(rows["losses"], setting=setting, model=model), model, chosen, command))
    parts.append(figures.winner_figure(_in(rows["winners"], setting=setting), chosen, command))
    for model in MODELS:
        parts.append(figures.links_table(_in(rows["links"], setting=setting, model=model), model, chosen, command))
    text = {
        PAPER.name: "Networks are cut within, features are floats of 32 bits, and a codec's own FLOPs are neglected.",
        OURS.name: "All on the device and all on the server are choices too, a codec's FLOPs count, and methods that "
        "send fewer bits a value may.",
    }[setting]
    return Section(chosen.title[0].upper() + chosen.title[1:], text, parts)


def _lead(rows: list[Row]) -> str:
    mine = ratios(row for row in rows if row.setting == OURS.name)
    published = ratios((row for row in rows if row.setting == OURS.name), without=(PrunePartition.name,))
    middle, most = median(published.runner_up), max(published.runner_up)
    return (
        f"With every cut and a loss of {100 * MAX_LOSS:g} points: fastest or level in {mine.won} of "
        f"{len(mine.runner_up)} scenarios; {middle:.2f} times as fast as the best published method in the median, "
        f"{most:.2f} times at most."
    )


def _provenance(model: str) -> dict[str, str]:
    records = read_records(shipped_parts(model))
    facts: dict[str, Any] = {
        "records": f"{len(records)} trained candidates at {records.input_px} px ({records.settings.get('data')})",
        "base network": f"{records.base_accuracy('validation'):.4f} on validation, {records.base_accuracy('test'):.4f} "
        "on test images",
        "measured on": f"{records.settings.get('validation_images'):,} validation images",
        "trained with": ", ".join(f"{name} {version}" for name, version in sorted(records.info.versions.items())),
    }
    if choices_path(model).exists():
        facts["compared methods"] = ", ".join(read_choices(choices_path(model)).methods)
    return facts


def _in(rows: list[Row], **wanted: str) -> list[Row]:
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
