"""A plan in words: pictures, queries, and whether seeds or pictures are what is lacking."""

from __future__ import annotations

from dataclasses import replace

from twinlens.evaluation.choose import Pair
from twinlens.evaluation.planning import Observed, plan
from twinlens.report.plan_text import describe_plan

SEEN = Observed(variance=0.01**2, df=199.0, clusters=200, per_cluster=5.0)
PAIR = Pair("a", "b", "caption_to_image", SEEN, -0.015, one_seed=False)


def test_it_tells_pictures_and_queries_and_the_chance_with_what_there_is() -> None:
    found = plan(SEEN, PAIR.effect)
    told = describe_plan(PAIR, found, "nDCG@10").splitlines()
    assert told[0] == (
        "b minus a on caption_to_image, nDCG@10: -0.0150, known to a standard error of 0.0100 from 200 pictures."
    )
    assert told[1] == "A difference of 0.015 is seen in 32 % of cases with these."
    assert told[2] == (
        "For 80 % it takes at least 700 pictures, 500 more; with as many captions each as here that is 3,500 queries."
    )
    assert told[3] == "More than twice the pictures make queries harder, which is not reckoned with."
    near = describe_plan(PAIR, plan(SEEN, 0.02), "nDCG@10").splitlines()
    assert near[2].startswith("For 80 % it takes 395 pictures, 195 more; ")
    assert len(near) == 3


def test_where_there_are_enough_it_says_how_many_would_have_been() -> None:
    told = describe_plan(PAIR, plan(SEEN, 0.05), "nDCG@10")
    assert "For 80 % 65 pictures are enough (325 queries)." in told


def test_it_says_whether_seeds_or_pictures_help() -> None:
    seeded = replace(SEEN, training=0.02**2, seeds=3, training_df=4.0)
    told = describe_plan(replace(PAIR, observed=seeded), plan(seeded, 0.03), "nDCG@10")
    assert "No number of pictures makes that 80 %: the seeds differ too much." in told
    assert "80 % of the variance is of training, so that what helps is seeds, more than pictures: " in told
    little = replace(SEEN, training=0.002**2, seeds=3, training_df=4.0)
    assert "pictures, more than seeds" in describe_plan(replace(PAIR, observed=little), plan(little, 0.02), "MRR")


def test_one_seed_is_said_to_be_about_weights_and_not_recipes() -> None:
    told = describe_plan(replace(PAIR, one_seed=True), plan(SEEN, 0.02), "nDCG@10")
    assert told.endswith("One seed of each: this is about these weights, not about their recipes.")
