"""``python -m reflectzoo.compare a/ b/``: paired comparison of two results, with tests of significance."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reflectzoo.cli import nearest, run_standalone
from reflectzoo.cli.tables import Column, TextTable
from reflectzoo.core.batch import LAYERS
from reflectzoo.core.disk import write_text
from reflectzoo.errors import UserError
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.measures import Measure, measures_of
from reflectzoo.evaluation.protocol import FORMERLY
from reflectzoo.evaluation.results import read_results

RESAMPLES = 10_000
_NAMED = 10
# Attributes of a protocol that do not affect the score of a single picture.
_HARMLESS = ("name", "source", "in_words", "layers", "metrics", "average", "overall")
# Tolerance for the scores of the same picture on different machines.
_SAME_PICTURE = 1e-3


@dataclass(frozen=True)
class Pair:
    """Scores of a picture that both results contain.

    Attributes:
        dataset: set of the picture.
        image: name of the picture.
        a: score in the first result.
        b: score in the second result.
    """

    dataset: str
    image: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.b - self.a


@dataclass(frozen=True)
class Verdict:
    """Statistics of the comparison on one set, or on all pictures.

    Attributes:
        title: title of the set.
        images: number of pictures compared.
        mean_a: mean score of the first result.
        mean_b: mean score of the second result.
        difference: mean of b - a.
        low: lower end of the 95 % bootstrap interval of the difference.
        high: upper end.
        b_higher: number of pictures on which b has the larger value.
        a_higher: number of pictures on which a has the larger value.
        ties: number of pictures on which both are equal.
        p: p-value of the exact two-sided sign test, without ties.
    """

    title: str
    images: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    b_higher: int
    a_higher: int
    ties: int
    p: float


def sign_test(larger: int, smaller: int) -> float:
    """Exact two-sided p-value for the null hypothesis that both signs of a difference are equally likely.

    Args:
        larger: number of positive differences.
        smaller: number of negative differences.

    Example:
        >>> sign_test(9, 1)
        0.021484375
        >>> sign_test(0, 0)
        1.0
    """
    from scipy.stats import binomtest

    return float(binomtest(larger, larger + smaller).pvalue) if larger + smaller else 1.0


def bootstrap(
    groups: Sequence[NDArray[np.float64]], resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over all pictures (Efron & Tibshirani 1993, chapter 13).

    Args:
        groups: differences, (N,) for each set; pictures are resampled within their set, so that each set keeps its
            share.
        resamples: number of bootstrap samples.
        seed: random seed, for reproducible intervals.
        level: confidence level in (0, 1).

    Returns:
        Lower and upper end. If no set has more than one picture, both are the mean difference.
    """
    from scipy import stats

    total = sum(len(group) for group in groups)
    # A set of one picture has no variance to resample.
    fixed = sum(float(group.sum()) for group in groups if len(group) < 2)
    drawn = [group for group in groups if len(group) >= 2]
    if not drawn:
        return fixed / total, fixed / total

    def mean(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        sums: NDArray[np.float64] = fixed + np.sum([sample.sum(axis=axis) for sample in samples], axis=0)
        return sums / total

    interval = stats.bootstrap(
        drawn,
        mean,
        n_resamples=resamples,
        batch=max(1, 4_000_000 // max(map(len, drawn))),  # 10 000 draws of 10 000 pictures would be 800 MB
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def check_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Check that two results were scored in the same way.

    Raises:
        UserError: naming the attributes of the protocols that differ.
    """
    first, second = a["protocol"], b["protocol"]
    keys = [key for key in dict.fromkeys([*first, *second]) if key not in _HARMLESS]
    differing = [key for key in keys if first.get(key, FORMERLY.get(key)) != second.get(key, FORMERLY.get(key))]
    if differing:
        told = ", ".join(f"{key} {_short(first.get(key))} and {_short(second.get(key))}" for key in differing)
        raise UserError(
            f"These results are from different protocols ({first['name']} and {second['name']}: {told}), so their "
            "scores cannot be compared: evaluate one of them again with the other's protocol=<name>."
        )


def match_pictures(
    a: Mapping[str, Any], b: Mapping[str, Any], entry_a: str, entry_b: str, layer: str, metric: str
) -> tuple[list[Pair], list[str], list[str]]:
    """Match the pictures of two results.

    Args:
        a: first result.
        b: second result.
        entry_a: entry of the first result.
        entry_b: entry of the second result.
        layer: ``transmission`` or ``reflection``.
        metric: key of the score.

    Returns:
        Matched pairs, pictures scored only in the first result, and only in the second, as ``set/image``.

    Raises:
        UserError: if no picture is in both, or pictures of the same name differ.
    """
    first, second = _scores(a, entry_a, layer, metric), _scores(b, entry_b, layer, metric)
    common = [key for key in first if key in second]
    if not common:
        raise UserError(
            f"No picture has a {metric} of the {layer} in both results: {len(first)} have one in the first and "
            f"{len(second)} in the second, none of the same set and name."
        )
    inputs_a, inputs_b = _inputs(a), _inputs(b)
    for key in common:
        same = [inputs_a.get(key), inputs_b.get(key)]
        if same[0] is None or same[1] is None:
            continue
        size_a, value_a = same[0]
        size_b, value_b = same[1]
        values_differ = (
            value_a is not None
            and value_b is not None
            and any(abs(value_a[k] - value_b[k]) > _SAME_PICTURE for k in value_a)
        )
        if size_a != size_b or values_differ:
            raise UserError(
                f"'{'/'.join(key)}' is another picture in the second result than in the first (its size or the score "
                "of the untouched input differ): evaluate both on the same copy of the benchmark."
            )
    pairs = [Pair(*key, first[key], second[key]) for key in common]
    return (
        pairs,
        ["/".join(key) for key in first if key not in second],
        ["/".join(key) for key in second if key not in first],
    )


def judge(pairs: Sequence[Pair], titles: Mapping[str, str], seed: int = 0) -> list[Verdict]:
    """Compute a verdict for each set, and for all pictures together if there are several sets.

    Args:
        pairs: matched pictures.
        titles: set -> its title.
        seed: random seed of the bootstrap.
    """
    by_set: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_set.setdefault(pair.dataset, []).append(pair)
    verdicts = [_judge(titles.get(name, name), [found], seed) for name, found in by_set.items()]
    if len(by_set) > 1:
        verdicts.append(_judge("all pictures", list(by_set.values()), seed))
    return verdicts


def verdict_in_words(verdict: Verdict, name_a: str, name_b: str, measure: Measure) -> str:
    """Interpret a verdict in one or two sentences.

    The bootstrap interval decides: a difference is significant if the interval does not contain 0. Disagreement of the
    sign test (p < 0.05) is mentioned. Fewer than six pictures allow no conclusion.
    """
    size = measure.text(abs(verdict.difference)) + (f" {measure.unit}" if measure.unit else "")
    interval = f"95 % interval {measure.signed(verdict.low)} to {measure.signed(verdict.high)}"
    where = f"{verdict.title}: "
    if verdict.images < 6:
        return f"{where}{verdict.images} pictures are too few to draw a conclusion; mean difference {size}."
    told = verdict.low > 0 or verdict.high < 0
    if not told:
        words = f"{where}the difference of {size} cannot be distinguished from noise ({interval})."
        if verdict.p < 0.05:
            more = name_b if measure.gain(verdict.b_higher, verdict.a_higher) > 0 else name_a
            is_better = "has more" if measure.higher_is_better is None else "is better"
            words += f" But {more} {is_better} on clearly more pictures (sign test, p = {verdict.p:.2g})."
        return words
    if measure.higher_is_better is None:
        relation = f"has {'more' if verdict.difference > 0 else 'less'} than"
    else:
        relation = f"is {'better' if measure.gain(verdict.difference, 0) > 0 else 'worse'} than"
    words = f"{where}{name_b} {relation} {name_a} by {size} ({interval})."
    if verdict.p >= 0.05:
        words += f" This comes from only some of the pictures: the sign test shows no winner (p = {verdict.p:.2g})."
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two results.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status: 0, or 2 for results that cannot be compared.
    """
    return run_standalone("compare", sys.modules[__name__], argv)


DESCRIPTION = (
    "Paired comparison of two results of reflectzoo evaluate, picture by picture: mean difference (second - first), "
    "95 % bootstrap interval, exact sign test. Give a folder twice to compare two of its entries."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("a", type=Path, help="folder of the first result")
    parser.add_argument("b", type=Path, help="folder of the second result")
    parser.add_argument(
        "--entry-a", metavar="NAME", help="entry of the first (default: the only one besides the input)"
    )
    parser.add_argument("--entry-b", metavar="NAME", help="entry of the second, likewise")
    parser.add_argument("--metric", default="psnr", help="psnr (default), ssim, lmse, ncc, si ...")
    parser.add_argument("--layer", default="transmission", choices=LAYERS)
    parser.add_argument("--set", metavar="NAME", help="only this data set")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="pictures listed at each end (default 5)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the differences of all pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")


def run(arguments: argparse.Namespace) -> int:
    """Compare two results, print the statistics, and return the exit status 0.

    Raises:
        UserError: if the results cannot be compared, or an option names something that they do not contain.
    """
    a, b = read_results(arguments.a), read_results(arguments.b)
    check_comparable(a, b)
    known = {each.key: each for each in measures_of(a)}
    if arguments.metric not in known:
        raise UserError(f"There is no --metric {arguments.metric} in '{arguments.a}'; it has {', '.join(known)}.")
    measure = known[arguments.metric]
    entry_a, entry_b = _entry(a, arguments.entry_a, "--entry-a"), _entry(b, arguments.entry_b, "--entry-b")
    pairs, only_a, only_b = match_pictures(a, b, entry_a, entry_b, arguments.layer, arguments.metric)
    titles = {each["name"]: each["title"] for each in [*a["sets"], *b["sets"]]}
    if arguments.set is not None:
        if arguments.set not in titles:
            raise UserError(f"There is no --set {arguments.set} in these results; they have {', '.join(titles)}.")
        pairs = [pair for pair in pairs if pair.dataset == arguments.set]
        if not pairs:
            raise UserError(f"No picture of the set {arguments.set} is in both results.")
    name_a, name_b = _names(arguments.a, arguments.b, entry_a, entry_b)
    verdicts = judge(pairs, titles, arguments.seed)
    lines = [
        f"A  {name_a}: {entry_a} in {arguments.a}",
        f"B  {name_b}: {entry_b} in {arguments.b}",
        f"{measure.title} of the {arguments.layer}, mean over pictures; "
        f"{({True: 'higher', False: 'lower', None: 'neither'})[measure.higher_is_better]} is better",
        "",
        *_table(verdicts, measure),
        "",
        *_extremes(pairs, measure, arguments.show),
        *_unmatched(only_a, "A"),
        *_unmatched(only_b, "B"),
    ]
    if a["protocol"]["average"] == "pixels":
        lines.append("The tables of these results average over pixels; here, every picture has the same weight.")
    if a["fingerprint"] == b["fingerprint"] and entry_a == entry_b:
        lines.append("Both are the same evaluation.")
    for verdict in verdicts:
        lines.append(verdict_in_words(verdict, name_a, name_b, measure))
    if arguments.csv is not None:
        _write_csv(arguments.csv, pairs)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _scores(results: Mapping[str, Any], entry: str, layer: str, metric: str) -> dict[tuple[str, str], float]:
    scores = {}
    for row in results["images"]:
        value = (row[layer] or {}).get(metric)
        if row["entry"] == entry and value is not None:
            scores[row["set"], row["image"]] = float(value)
    return scores


def _inputs(results: Mapping[str, Any]) -> dict[tuple[str, str], tuple[tuple[int, int], dict[str, float] | None]]:
    """Size of every picture, and PSNR and SSIM of the untouched input, by which the same picture is recognised."""
    found = {}
    for row in results["images"]:
        if row["entry"] == INPUT:
            scores = row["transmission"]
            kept = {k: scores[k] for k in ("psnr", "ssim") if scores.get(k) is not None} if scores else None
            found[row["set"], row["image"]] = ((row["height"], row["width"]), kept)
    return found


def _entry(results: Mapping[str, Any], wanted: str | None, option: str) -> str:
    names = [entry["name"] for entry in results["entries"]]
    if wanted is not None:
        if wanted not in names:
            close = nearest(wanted, names)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"There is no {option} {wanted} in that result; it has {', '.join(names)}.{hint}")
        return wanted
    others = [name for name in names if name != INPUT]
    if len(others) > 1:
        raise UserError(f"That result has several entries: choose with {option}, one of {', '.join(names)}.")
    return others[0] if others else INPUT


def _names(a: Path, b: Path, entry_a: str, entry_b: str) -> tuple[str, str]:
    """Names that distinguish the two results: their entries, their folders, or A and B."""
    if entry_a != entry_b:
        return entry_a, entry_b
    first, second = a.resolve().name, b.resolve().name
    return (first, second) if first != second else ("A", "B")


def _judge(title: str, groups: Sequence[Sequence[Pair]], seed: int) -> Verdict:
    differences = [np.array([pair.difference for pair in group]) for group in groups]
    every = np.concatenate(differences)
    pairs = [pair for group in groups for pair in group]
    low, high = bootstrap(differences, seed=seed)
    larger, smaller = int((every > 0).sum()), int((every < 0).sum())
    return Verdict(
        title,
        len(pairs),
        math.fsum(pair.a for pair in pairs) / len(pairs),
        math.fsum(pair.b for pair in pairs) / len(pairs),
        math.fsum(every) / len(pairs),
        low,
        high,
        larger,
        smaller,
        len(pairs) - larger - smaller,
        sign_test(larger, smaller),
    )


def _table(verdicts: Sequence[Verdict], measure: Measure) -> list[str]:
    heads = ("pictures", "A", "B", "B - A", "95 % interval", "B > A", "A > B", "equal", "p (sign)")
    rows = []
    for each in verdicts:
        interval = f"{measure.signed(each.low)} to {measure.signed(each.high)}"
        means = [measure.text(each.mean_a), measure.text(each.mean_b), measure.signed(each.difference)]
        counts = [str(each.b_higher), str(each.a_higher), str(each.ties)]
        rows.append([each.title, str(each.images), *means, interval, *counts, f"{each.p:.2g}"])
    return TextTable([Column(), *(Column(head, right=True) for head in heads)], rows).plain()


def _extremes(pairs: Sequence[Pair], measure: Measure, show: int) -> list[str]:
    ordered = sorted(pairs, key=lambda pair: pair.difference)
    if show <= 0:
        return []
    chosen = ordered if len(ordered) <= 2 * show else [*ordered[:show], None, *ordered[-show:]]
    lines = ["B - A of single pictures, from the lowest to the highest:"]
    for pair in chosen:
        if pair is None:
            lines.append("     ...")
        else:
            values = f"{measure.text(pair.a)} -> {measure.text(pair.b)}"
            lines.append(f"  {measure.signed(pair.difference):>8}  {pair.dataset}/{pair.image}  ({values})")
    return [*lines, ""]


def _unmatched(names: Sequence[str], which: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"Only in {which}, ignored: {', '.join(names[:_NAMED])}{more}", ""]


def _write_csv(path: Path, pairs: Sequence[Pair]) -> None:
    rows = [[pair.dataset, pair.image, *map(str, (pair.a, pair.b, pair.difference))] for pair in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, TextTable([Column(head) for head in ("set", "image", "a", "b", "difference")], rows).csv())


if __name__ == "__main__":
    sys.exit(main())
