"""Turn the inputs of the tasks into unit vectors with every tower the model has."""

from __future__ import annotations

import logging

import polars as pl

from stages.runner import run_stage
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.core.scratch import prune, write_whole
from twinlens.core.tables import INDEX, read_table
from twinlens.engines import open_engine
from twinlens.inference.batches import tell_changed_tops
from twinlens.inference.embed import Embedder
from twinlens.tasks.inputs import read_inputs

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write one file of vectors and one of ids for each input that the model can read."""
    params = read_params()
    gates = Gates(params.gates)
    inputs = read_inputs(paths.tasks(dataset, params.captioner) / "inputs")
    pictures = [one.rows["image_id"] for one in inputs.values() if "image" in one.reads]
    shown = pl.concat([pl.Series(dtype=pl.String), *pictures])
    sizes = read_table(paths.resized(dataset) / "index.parquet", INDEX, ["image_id", "width", "height"])
    stored = sizes.filter(pl.col("image_id").is_in(shown.unique().implode()))
    with open_engine(params.compute) as engine:
        cost, trained = Cost(engine.placement.name), paths.trained(dataset, model)
        embedder = Embedder(params.models[model], trained, engine.placement, params.compute, cost, engine)
        for gate, trouble in embedder.inspect(stored.select("width", "height")):
            gates.check(gate, trouble)
        with write_whole(paths.embedded(dataset, model)) as draft:
            items = embedder.embed(inputs.values(), paths.resized(dataset), draft)
            for changed in tell_changed_tops(cost.parts):  # no gate: nothing that one could do is missing
                log.warning("WARNING: %s", changed)
                gates.found.append({"gate": "batch_changes", "trouble": changed})
            gates.write(draft / "gates.json")
        cost.machine = engine.machine
    prune(parts=params.compute.parts)
    cost.write(paths.cost("embed", dataset, model), items=items, seconds=cost.seconds_of_parts())


if __name__ == "__main__":
    run_stage(main)
