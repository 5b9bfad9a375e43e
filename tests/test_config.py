"""Configs: every mistake is an error that names the file, the key's path and the way out."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from ray_ggsm.config import Config, InputError, digest, load


class Apple(Config):
    kind: Literal["apple"]
    rate: float = 1.0


class Pear(Config):
    kind: Literal["pear"]
    names: tuple[str, ...] = ()


class Inner(Config):
    rate: float = 1.0
    fruit: Apple | None = None


class Outer(Config):
    fruit: Annotated[Apple | Pear, Field(discriminator="kind")]
    inner: Inner = Inner()
    many: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("yaml", "overrides", "sentence"),
    [
        ("fruit: {kind: apple, rte: 1}", [], "fruit.rte: unknown key; did you mean 'rate'?"),
        ("fruit: {kind: apple}\ninnr: 3", [], "innr: unknown key; did you mean 'inner'?"),
        ("fruit: {kind: apple}\nmany: {x: {rat: 1}}", [], "many.x.rat: unknown key; did you mean 'rate'?"),
        ("fruit: {kind: apple}\nzzz: 3", [], "zzz: unknown key; valid keys are: fruit, inner, many"),
        ("fruit: {kind: plum}", [], "fruit.kind: expected one of 'apple', 'pear', found 'plum'"),
        ("fruit: {}", [], "fruit.kind: expected one of"),
        ("inner: {rate: 1}", [], "fruit: this key is required and missing"),
        ("fruit: {kind: pear, names: [x, 3]}", [], "fruit.names.1: input should be a valid string, found 3"),
        ("fruit: {kind: apple, rate: yes}", [], "fruit.rate: input should be a valid number, found True"),
        ("fruit: {kind: apple}\nfruit: {kind: pear}", [], "line 2: key 'fruit' is given twice"),
        ("fruit: {kind: apple}", ["inner.rate=fast"], "inner.rate: input should be a valid number, found 'fast'"),
        ("fruit: {kind: apple}", ["inner"], "--set inner: expected key.path=value"),
        ("fruit: {kind: pear, names: [a]}", ["fruit.names.4=b"], "'4' is no position in a list of 1"),
        ("- fruit", [], "expected a mapping of keys to values, found list"),
        ("fruit: [", [], "while parsing"),
        ("fruit: !!python/object/apply:os.system [ls]", [], "could not determine a constructor"),
    ],
)
def test_mistakes_explain_themselves(yaml, overrides, sentence, tmp_path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml)
    with pytest.raises(InputError) as error:
        load(Outer, str(file), overrides)
    assert sentence in str(error.value)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(InputError, match="no such config file"):
        load(Outer, str(tmp_path / "no.yaml"))


def test_what_is_no_text_file(tmp_path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    for place in (tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(InputError, match="cannot be read as a UTF-8 text file"):
            load(Outer, str(place))


def test_values_arrive_as_typed(tmp_path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("fruit: {kind: apple, rate: 1e-4}\ninner: {rate: 3}")
    config = load(Outer, str(file), ["many.new.rate=2.5e-3"])
    assert config.fruit == Apple(kind="apple", rate=1e-4)
    assert config.inner.rate == 3
    assert config.many["new"].rate == 2.5e-3


def test_digest_depends_on_content_alone() -> None:
    assert digest(Inner(rate=2), {"b": 1, "a": 2}) == digest(Inner(rate=2.0), {"b": 1, "a": 2})
    assert digest(Inner(rate=2)) != digest(Inner(rate=3))
    assert digest({"b": 1, "a": 2}) != digest({"a": 2, "b": 1})  # modalities stand in the template in this order
