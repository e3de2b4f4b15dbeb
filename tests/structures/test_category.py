from __future__ import annotations

from eachmask.structures import Category
from eachmask.structures.category import labels_among, lineages, nearest_labels

TREE = (
    Category(1, "animal", "living"),
    Category(2, "cat", "animal"),
    Category(3, "kitten", "cat"),
    Category(4, "person", "person"),
    Category(5, "car"),
)


def test_lineages_end_where_the_tree_does():
    assert lineages(TREE)[2] == ("kitten", "cat", "animal", "living")
    assert lineages(TREE)[3] == ("person",)
    circle = [Category(1, "hen", "egg"), Category(2, "egg", "hen")]
    assert lineages(circle) == [("hen", "egg"), ("egg", "hen")]


def test_a_class_means_all_that_is_below_it():
    assert labels_among(TREE, ["cat"]) == {1, 2}
    assert labels_among(TREE, "living") == {0, 1, 2}, "also where that is no category of its own"
    assert labels_among(TREE, [0, "car"]) == {0, 1, 2, 4}
    assert labels_among((), [7]) == {7} and labels_among(TREE, []) == set()


def test_the_nearest_ancestor_that_is_known():
    assert nearest_labels(TREE, {"animal": 0, "living": 1, "person": 2}) == {0: 0, 1: 0, 2: 0, 3: 2}
    assert nearest_labels(TREE, {"kitten": 5, "cat": 3}) == {1: 3, 2: 5}
