"""What DVC runs and what it does not: proved by running it in clones of the project."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.workspace import CLEAN, RAN, Workspace, clone

pytestmark = pytest.mark.slow

SEARCH = ["rank", "clock", "calibrate", "index", "evaluate", "approximate", "compress", "report"]
OF_THE_MODEL = ["train", "embed", *SEARCH]
ALL = ["validate", "download", "filter", "resize", "group", "caption", "tasks", *OF_THE_MODEL]
GUARD = "validate"  # checks settings and cards in a moment; it runs when any of them changes
LEADERBOARD = r"(?!Exp|dataset|model|captioner|ndcg.*\.image$)"  # columns to drop: all but these
KINDS = ("captions", "generated", "captions_and_generated")  # of words
IMAGE_TASKS = ("object_sets", "caption_to_image", "image_to_caption")


@pytest.fixture(scope="module")
def finished(of_all_workers: Path) -> Workspace:
    """A clone in which the whole pipeline has run once, undisturbed, and is committed; by the first who asks."""
    made = of_all_workers / "finished"
    with (of_all_workers / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            workspace = clone(Path(tempfile.mkdtemp(dir=of_all_workers)) / "clone")
            assert workspace.ran("dvc", "repro") == ALL
            workspace.commit("the first results")
            workspace.folder.rename(made)
    return Workspace(made)


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    return finished.copy(tmp_path / "clone")


@pytest.fixture(scope="module")
def with_another_model(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[str]]:
    """The same after an experiment with another model, and the stages that it ran."""
    workspace = finished.copy(tmp_path_factory.mktemp("other") / "clone")
    return workspace, workspace.ran("dvc", "exp", "run", "-n", "other", "-S", "model=clip-other")


@pytest.fixture
def experimented(with_another_model: tuple[Workspace, list[str]], tmp_path: Path) -> Workspace:
    return with_another_model[0].copy(tmp_path / "clone")


def test_a_second_repro_runs_nothing(workspace: Workspace) -> None:
    assert workspace.ran("dvc", "repro") == []


def test_every_json_file_of_the_pipeline_parses_without_nan(finished: Workspace) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    files = [path for part in ("data", "metrics") for path in sorted((finished.folder / part).rglob("*.json"))]
    assert len(files) > 20
    for path in files:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_report_reads_nothing_but_its_dependencies(workspace: Workspace) -> None:
    before = (workspace.folder / "report/index.html").read_bytes()
    locked = yaml.safe_load((workspace.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]["report"]
    named = [workspace.folder / dep["path"] for dep in locked["deps"]]
    for part in ("data", "metrics", "report"):
        for path in [found for found in (workspace.folder / part).rglob("*") if found.is_file()]:
            if not any(path == dep or dep in path.parents for dep in named):
                path.unlink()
    chosen = yaml.safe_load((workspace.folder / "params.yaml").read_text())
    arguments = [part for name in ("dataset", "model", "captioner") for part in (f"--{name}", chosen[name])]
    workspace.run("python", "-m", "stages.report", *arguments)
    assert (workspace.folder / "report/index.html").read_bytes() == before


def test_editing_or_adding_another_models_card_runs_nothing(workspace: Workspace) -> None:
    workspace.change(
        {
            "cards/models/clip-other.yaml:train.epochs": 7,
            "cards/models/brand-new.yaml:": {"image": {"timm": "resnet50.a1_in1k"}},
            "cards/captioners/blip-base.yaml:num_beams": 3,
            "cards/datasets/coco.yaml:pool": "val",
        }
    )
    assert workspace.ran("dvc", "repro") == [GUARD]
    assert workspace.ran("dvc", "repro") == []


def test_a_comment_and_what_is_about_a_card_in_use_run_nothing(workspace: Workspace) -> None:
    for card in ("models/clip-scenes", "datasets/scenes", "captioners/blip-scenes"):
        file = workspace.folder / f"cards/{card}.yaml"
        file.write_text(f"# a remark\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
        workspace.change({f"cards/{card}.yaml:about.note": "slow", f"cards/{card}.yaml:about.licence": "another"})
    workspace.change({"cards/models/clip-scenes.yaml:train.about": {"source": "a paper"}})
    assert workspace.ran("dvc", "repro") == [GUARD]


def test_a_value_of_a_card_is_set_from_the_command_line_here_or_in_a_folder_of_its_own(workspace: Workspace) -> None:
    value = "cards/models/clip-scenes.yaml:train.epochs"
    printed = workspace.run("dvc", "exp", "run", "--temp", "-S", f"{value}=1")
    assert RAN.findall(printed) == [GUARD, *OF_THE_MODEL]
    assert workspace.ran("dvc", "exp", "run", "-S", f"{value}=1") == []  # from the cache
    assert "train.epochs" in workspace.run("dvc", "params", "diff")
    assert workspace.ran("dvc", "exp", "run", "-S", f"{value}=2") == []


def test_a_change_in_a_base_reruns_the_card_that_uses_it(experimented: Workspace) -> None:
    ran = experimented.ran("dvc", "exp", "run", "-S", "cards/models/siglip-scenes.yaml:train.objective=clip")
    assert ran == [GUARD]
    experimented.change({"cards/models/clip-scenes.yaml:train.learning_rate": 0.002})
    assert experimented.ran("dvc", "repro", GUARD) == [GUARD]
    changed = json.loads(experimented.run("dvc", "status", "--json"))  # what `dvc repro` would run
    assert {stage.partition("@")[0] for stage in changed} == set(OF_THE_MODEL)


def test_old_settings_of_cards_are_answered_before_anything_runs(workspace: Workspace) -> None:
    old = "models.clip-scenes.train.epochs=1"
    printed = workspace.run("dvc", "exp", "run", "-S", old, check=False)  # DVC's own: there is no such key to set
    assert "Could not override 'models.clip-scenes.train.epochs'" in printed
    assert RAN.findall(printed) == []
    printed = workspace.run("dvc", "exp", "run", "-S", f"+{old}", check=False)  # what DVC advises
    assert "-S 'cards/models/clip-scenes.yaml:train.epochs=1'" in printed
    assert RAN.findall(printed) == [GUARD]


def test_batch_size_device_and_workers_rerun_nothing(workspace: Workspace) -> None:
    workspace.change(
        {"compute.device": "cpu", "compute.image_batch": 7, "compute.text_batch": 9, "compute.decode_threads": 1}
    )
    assert workspace.ran("dvc", "repro") == [GUARD]


def test_another_model_reruns_only_what_depends_on_it_and_switching_back_runs_nothing(
    with_another_model: tuple[Workspace, list[str]], experimented: Workspace
) -> None:
    assert with_another_model[1] == [GUARD, *OF_THE_MODEL]
    other = json.loads((experimented.folder / "metrics/retrieval.json").read_text())
    assert experimented.ran("dvc", "exp", "run", "-S", "model=clip-scenes") == []
    back = json.loads((experimented.folder / "metrics/retrieval.json").read_text())
    assert back != other
    assert experimented.run("git", "diff", "--stat", "metrics") == ""  # what was committed, to the byte
    assert experimented.ran("dvc", "exp", "run", "-S", "model=clip-other") == []


def test_changing_k_reruns_only_evaluate_and_the_report(workspace: Workspace) -> None:
    assert workspace.ran("dvc", "exp", "run", "-S", "evaluate.ks=[1,3]") == [GUARD, "evaluate", "report"]
    measured = json.loads((workspace.folder / "metrics/retrieval.json").read_text())
    assert {"hit_at_1", "hit_at_3"} <= set(measured["object_sets"]["image"])
    assert "hit_at_10" not in measured["object_sets"]["image"]


def test_changing_the_captioner_reruns_only_caption_and_what_reads_captions(workspace: Workspace) -> None:
    ran = workspace.ran("dvc", "exp", "run", "-S", "captioner=none")
    assert ran == [GUARD, "caption", "tasks", "embed", *SEARCH]
    assert workspace.ran("dvc", "exp", "run", "-S", "captioner=blip-scenes") == []


def test_an_unknown_name_is_refused_before_any_stage_runs(tmp_path: Path) -> None:
    fresh = clone(tmp_path / "clone")
    printed = fresh.run("dvc", "exp", "run", "-S", "model=vit-l14", check=False)
    assert "model: 'vit-l14' has no card in cards/models (did you mean 'vit-l-14'?" in printed
    assert "failed to reproduce 'validate'" in printed
    assert "Traceback" not in printed
    assert RAN.findall(printed) == ["validate"]


def test_an_unknown_name_is_refused_where_everything_upstream_has_run(workspace: Workspace) -> None:
    for name, wrong in (("model", "vit-l14"), ("dataset", "coc"), ("captioner", "blip-bse")):
        workspace.change({name: wrong})
        printed = workspace.run("dvc", "repro", check=False)
        assert f"{name}: '{wrong}' has no card" in printed
        workspace.run("git", "checkout", "-q", "params.yaml")


def test_metrics_diff_between_two_models_is_one_table(experimented: Workspace) -> None:
    lines = experimented.run("dvc", "metrics", "diff").splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["Path", "Metric", "HEAD", "workspace", "Change"]
    row = next(line for line in lines if "ndcg.caption_to_image.image " in line).split()
    assert float(row[4]) == pytest.approx(float(row[3]) - float(row[2]), abs=1e-4)


def test_two_models_are_compared_and_reported_from_what_the_pipeline_left(experimented: Workspace) -> None:
    experimented.run("git", "checkout", "-q", ".")
    experimented.run("dvc", "checkout", "-q", "--force")
    printed = json.loads(experimented.run("python", "-m", "twinlens", "compare", "HEAD", "other", "--format", "json"))
    assert {(d["first"], d["second"]) for d in printed["differences"]} == {("HEAD", "other")}
    intervals = json.loads((experimented.folder / "metrics/intervals.json").read_text())
    means = json.loads((experimented.folder / "metrics/retrieval.json").read_text())
    assert len(printed["differences"]) == sum(len(results) - 1 for results in means.values())  # but for the pools
    found = intervals["caption_to_image"]["image"]["hit_at_10"]
    assert found["low"] <= means["caption_to_image"]["image"]["hit_at_10"] <= found["high"]
    assert json.loads((experimented.folder / "metrics/gates.json").read_text())["warnings"] >= 0
    assert (experimented.folder / "report/index.html").read_text().count("<img ") > 500
    assert "files below out" in experimented.run("python", "-m", "twinlens", "export", "out")


def test_a_sweep_survives_a_model_that_fails_and_exp_show_has_a_row_for_each(workspace: Workspace) -> None:
    bad = {"base": "models/clip-scenes", "train": {"learning_rate": 1e6, "epochs": 1}}
    workspace.change({"cards/models/clip-bad.yaml:": bad, "cards/models/clip-other.yaml:train.seeds": 2})
    sweep = ("python", "-m", "twinlens", "sweep", "--models")
    assert "git add cards/models/clip-bad.yaml" in workspace.run(*sweep, "clip-scenes,clip-bad,clip-other", check=False)
    workspace.commit("another card")
    told = workspace.run(*sweep, "clip-scenes,clip-bad,clip-other")
    assert "4 experiments, 0 of them finished" in told
    assert "clip-bad failed and is skipped" in told
    assert "clip-other-seed2 failed" not in told, told
    assert "clip-other (2 seeds) is clip-other-seed1+clip-other-seed2, which differ in the seed alone: one row" in told
    assert "One seed only: clip-scenes." in told
    assert "4 experiments, 3 of them finished" in workspace.run(*sweep, "clip-scenes,clip-bad,clip-other", "--dry")
    assert "Success" in workspace.run("dvc", "queue", "status")
    shown = json.loads(workspace.run("dvc", "exp", "show", "--json"))
    head = next(entry for entry in shown if entry["rev"] != "workspace")
    good = [one["revs"][0]["data"] for one in head["experiments"] if one["name"] != "clip-bad"]
    assert sorted(data["params"]["params.yaml"]["data"]["model"] for data in good) == [
        "clip-other",
        "clip-other",
        "clip-scenes",
    ]
    values = [json.dumps(data["metrics"]["metrics/summary.json"]["data"]["ndcg"]) for data in good]
    assert len(set(values)) == len(good)
    narrow = Workspace(workspace.folder, {"COLUMNS": "160"})
    lines = narrow.run("dvc", "exp", "show", "--hide-workspace", "--only-changed", "--drop", LEADERBOARD).splitlines()
    assert max(map(len, lines)) <= 160
    assert "…" not in lines[1]
    assert lines[1].split() == ["Experiment", *(f"ndcg.{task}.image" for task in IMAGE_TASKS), "model"]
    widths = [len(line.split()) for line in lines if "──" in line and "[" in line]  # with the branch and the sha
    assert set(widths) == {7}
    assert len(widths) >= len(good)  # one that failed has a row too


def test_plots_draw_measures_against_k_and_quality_against_cost(workspace: Workspace) -> None:
    workspace.run("python", "-m", "tools.offline_plots")
    workspace.run("dvc", "plots", "show", "-o", "plots")
    page = (workspace.folder / "plots/index.html").read_text(encoding="utf-8")
    assert "cdn.jsdelivr.net/npm/vega@" not in page  # opens without a network
    assert "Measures against k" in page
    assert "Quality against cost" in page
    assert "Hit against the number of distractors" in page
    assert "Recall of approximate search against its latency" in page
    assert "Quality against bytes of a vector" in page
    assert '"retriever": "image_and_captions_joined"' in page
    assert "ms_per_picture" in page
    assert not re.search(r"metrics/\w+\.json", page)  # they draw nothing


def test_costs_are_recorded_by_stage_and_by_tower(finished: Workspace) -> None:
    costs = json.loads((finished.folder / "metrics/cost.json").read_text())
    assert list(costs["stages"]) == [
        name for name in ALL[1:-1] if name not in ("clock", "calibrate", "index", "approximate", "compress")
    ]
    for stage in costs["stages"].values():
        assert stage["seconds"] > 0
        assert stage["peak_host_mb"] > 10
    image, text = costs["parts"]["embed_images"], costs["parts"]["embed_captions"]
    assert image["vector_bytes"] == 4 * image["dim"]
    assert image["items"] == 400
    assert text["items"] == 2000
    serving = costs["serving"]
    rows = [row for task in serving["tasks"].values() for row in task.values()]
    assert len(serving["machine"]["digest"]) == 12
    assert all(0 < row["ms_per_query"] <= row["ms_p95"] and row["disk_mb_per_million"] > 0 for row in rows)
    measured = json.loads((finished.folder / "metrics/retrieval.json").read_text())
    assert serving["tasks"].keys() == measured.keys()
    assert all(rows.keys() == measured[task].keys() - {"pool"} for task, rows in serving["tasks"].items())
    assert image["parameters"] > 0
    assert text["parameters"] > 0
    assert costs["parts"]["caption_train"]["items"] == 256


def test_every_scenario_comes_out_of_one_run(finished: Workspace) -> None:
    for file in ("retrieval", "as_published"):
        tasks = json.loads((finished.folder / f"metrics/{file}.json").read_text())
        ours = {"caption_to_caption"} if file == "retrieval" else set()  # no source has it
        assert set(tasks) == {*IMAGE_TASKS, "category_search"} | ours
        assert set(tasks["object_sets"]) == {
            "pool",
            "image",
            "captions_joined",
            "caption_random",
            "caption_generated",
            "image_and_captions_joined",
            "image_and_caption_generated",
            "bm25_captions",
            "bm25_generated",
            *(f"{name}_untrained" for name in ("image", "captions_joined", "caption_random", "caption_generated")),
        }
        assert tasks["caption_to_image"]["pool"]["queries"] == 2000
        assert tasks["caption_to_image"]["pool"]["items"] == 400


def test_words_and_hybrids_are_measured_with_a_weight_of_the_validation_split(finished: Workspace) -> None:
    found = json.loads((finished.folder / "metrics/retrieval.json").read_text())["caption_to_image"]
    assert {name for name in found if name.startswith(("bm25", "hybrid"))} == {
        *(f"bm25_{kind}" for kind in KINDS),
        *(f"hybrid_{kind}_{fusion}" for kind in KINDS for fusion in ("rrf", "weighted")),
    }
    for kind in KINDS:
        assert found[f"hybrid_{kind}_weighted"]["validation_queries"] == 5 * 40
        assert 0 <= found[f"hybrid_{kind}_weighted"]["image_weight"] <= 1
    assert found["hybrid_captions_rrf"]["hit_at_10"] > found["image"]["hit_at_10"]
    with (finished.folder / "metrics/approximate.csv").open() as file:
        rows = {row["setting"]: float(row["recall"]) for row in csv.DictReader(file)}
    assert rows["exact, LanceDB"] == 1
    assert len(rows) > 4
    assert rows["ivf_flat_1_of_16"] < rows["ivf_flat_8_of_16"]


def test_a_change_of_the_data_shows_in_git_diff(workspace: Workspace) -> None:
    card = "metrics/datasets/scenes.json"
    before = json.loads((workspace.folder / card).read_text())
    assert before["pictures"]["found"] == 696
    assert before["splits"] == {"test": 400, "train": 256, "val": 40}
    workspace.change({"cards/datasets/scenes.yaml:val": 39})
    assert workspace.ran("dvc", "repro", "group@scenes") == [GUARD, "download", "filter", "resize", "group"]
    changed = workspace.run("git", "diff", "--unified=0", card)
    assert '-    "found": 696,' in changed
    assert '+    "found": 695,' in changed


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_results_pulled_from_a_remote_run_nothing_in_a_fresh_clone(
    kind: str, workspace: Workspace, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "bucket":
        request.getfixturevalue("bucket_host")  # named by the environment, as for every client
    workspace.share("s3://photos/results" if kind == "bucket" else tmp_path / "remote")
    there = workspace.elsewhere(tmp_path / "there")
    assert not (there.folder / "data/raw").exists()  # git brought none of it
    there.run("dvc", "pull")
    assert there.ran("dvc", "repro") == []
    assert there.run("dvc", "status") == CLEAN
    assert there.run("git", "status", "--porcelain") == ""  # `dvc.lock` and the metrics stay as they were committed
    kinds = ("raw", "filtered", "resized", "grouped", "captioned", "trained", "embedded", "ranked", "evaluated")
    assert there.digests(*kinds) == workspace.digests(*kinds)
    assert (there.folder / "report/index.html").read_bytes() == (workspace.folder / "report/index.html").read_bytes()


BY_HAND = """
import inspect, sys
from importlib import import_module
import yaml
chosen = yaml.safe_load(open("params.yaml"))
for stage in sys.argv[1:]:
    main = import_module(f"stages.{stage}").main
    main(**{name: chosen[name] for name in inspect.signature(main).parameters})
"""


def test_stages_that_a_person_starts_write_into_nothing_that_dvc_linked(workspace: Workspace, tmp_path: Path) -> None:
    locked = yaml.safe_load((workspace.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    outs = [workspace.folder / out["path"] for stage in locked.values() for out in stage["outs"]]
    files = [path for out in outs for path in (out, *out.rglob("*")) if path.is_file()]
    assert len(files) > 60
    cache = tmp_path / "cache"  # of links as DVC makes them, told by their time whether anything was written
    cache.mkdir()
    for number, file in enumerate(files):
        os.utime(file, ns=(0, 0))
        (cache / str(number)).hardlink_to(file)
    workspace.run("python", "-c", BY_HAND, *ALL)
    kept = [(cache / str(number)).stat() for number in range(len(files))]
    assert [str(file) for file, stat in zip(files, kept, strict=True) if stat.st_mtime_ns != 0] == []
    assert [str(file) for file, stat in zip(files, kept, strict=True) if stat.st_nlink != 1] == []  # all written anew


SMALL_VEHICLES = {
    "dataset": "scenes-vehicles",
    "cards/datasets/scenes-vehicles.yaml:queries.train": 256,
    "cards/datasets/scenes-vehicles.yaml:queries.val": 40,
    "cards/datasets/scenes-vehicles.yaml:queries.test": 200,
    "cards/datasets/scenes-vehicles.yaml:distractors.test": 300,
}


def test_drawn_vehicles_are_searched_for_among_ever_more_distractors(workspace: Workspace) -> None:
    workspace.change(SMALL_VEHICLES)
    workspace.run("dvc", "repro")
    assert workspace.run("git", "diff", "--stat", "metrics/datasets/scenes.json") == ""  # another dataset's card stays
    card = json.loads((workspace.folder / "metrics/datasets/scenes-vehicles.json").read_text())
    kept, pool = card["keep"]["kept"], card["pictures"]["in_pool"]
    assert 0 < kept < card["keep"]["found"] == 200
    retrieval = json.loads((workspace.folder / "metrics/retrieval.json").read_text())
    assert retrieval["caption_to_image"]["pool"]["queries"] == 5 * kept
    assert retrieval["caption_to_image"]["pool"]["items"] == pool
    with (workspace.folder / "metrics/distractors.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "caption_to_image"]
    for retriever in ("image", "caption_generated"):
        mine = [(int(row["distractors"]), float(row["hit"])) for row in rows if row["retriever"] == retriever]
        assert mine[0][0] == 0
        assert mine[-1] == (pool - kept, retrieval["caption_to_image"][retriever]["hit_at_10"])
        hits = [hit for _, hit in mine]
        assert hits == sorted(hits, reverse=True)
        assert retriever != "image" or hits[0] > hits[-1]  # captions of a BLIP of two epochs are nearly all the same


def kill_when(workspace: Workspace, reached: Callable[[], bool]) -> None:
    """Start `dvc repro` and kill it with all its children once something has been reached."""
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=workspace.folder,
        env=workspace.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, "the pipeline ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_in_caption_train_and_embed_it_resumes_and_ends_byte_identical(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    disturbed = clone(tmp_path / "clone")
    disturbed.plain = True  # as it is for a person; and dvc and its stages are killed at the same instant
    scratch, data = disturbed.folder / ".dvc/tmp/twinlens", disturbed.folder / "data"

    def trained(count: int) -> Callable[[], bool]:
        return lambda: len(list(scratch.glob("train/*/epoch.pt"))) == count

    def parts(kind: str) -> Callable[[], bool]:
        return lambda: any(scratch.glob(f"{kind}/*/part-*.[jn][sp][oy]*"))

    kill_when(disturbed, trained(1))  # after the captioner's first epoch of two
    assert not (data / "captioned").exists() or not any((data / "captioned").rglob("captions.parquet"))
    kill_when(disturbed, parts("caption"))
    kill_when(disturbed, trained(2))  # after the model's first epoch of two
    kill_when(disturbed, parts("embed"))
    made = {path.name for path in scratch.glob("caption/*/part-*.json")}
    finished_at = {path: path.stat().st_mtime_ns for path in scratch.glob("caption/*/part-*.json")}
    disturbed.plain = False
    disturbed.run("dvc", "repro")
    assert made == {f"part-0000{n}.json" for n in range(4)}
    assert all(path.stat().st_mtime_ns == then for path, then in finished_at.items())  # nothing was made twice
    kinds = ("captioned", "trained", "embedded", "ranked", "evaluated")
    finished: Workspace = request.getfixturevalue("finished")  # only now, as another worker may be making it
    before, after = finished.digests(*kinds), disturbed.digests(*kinds)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []
