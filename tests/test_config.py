"""Configs: every mistake is an error that names the file, the key's path and the way out."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Runtime, build, digest, load, to_yaml


class Apple(Config):
    kind: Literal["apple"]
    rate: float = 1.0


class Pear(Config):
    kind: Literal["pear"]
    names: tuple[str, ...] = ()


class Inner(Config):
    rate: float = 1.0
    fruit: Apple | None = None


Fruit = Annotated[Apple | Pear, Field(discriminator="kind")]


class Outer(Config):
    fruit: Fruit
    inner: Inner = Inner()
    many: dict[str, Inner] = {}
    more: dict[str, Fruit] = {}
    second: Fruit | None = None
    day: dt.date | None = None
    free: dict[str, Any] = {}
    pair: tuple[str, str] | None = None
    mode: Literal["auto"] | Literal["slow", "careful"] = "auto"  # as of a named Literal
    threads: Runtime[int] = 1


class Based(Config):
    """A schema that has a key `base` of its own."""

    base: int


@pytest.mark.parametrize(
    ("yaml", "overrides", "sentence"),
    [
        ("fruit: {kind: apple, rte: 1}", [], "fruit.rte: unknown key; did you mean 'rate'?"),
        ("fruit: {kind: apple}\ninnr: 3", [], "innr: unknown key; did you mean 'inner'?"),
        ("fruit: {kind: apple}\nmany: {x: {rat: 1}}", [], "many.x.rat: unknown key; did you mean 'rate'?"),
        ("fruit: {kind: apple}\nzzz: 3", [], "zzz: unknown key; valid keys are: day, free, fruit, inner, many, mode"),
        ("fruit: {kind: plum}", [], "fruit.kind: expected one of 'apple', 'pear', found 'plum'"),
        ("fruit: {}", [], "fruit.kind: expected one of"),
        ("inner: {rate: 1}", [], "fruit: this key is required and missing"),
        ("fruit: {kind: pear, names: [x, 3]}", [], "fruit.names.1: input should be a valid string, found 3"),
        ("fruit: {kind: apple, rate: yes}", [], "fruit.rate: input should be a valid number, found True"),
        ("fruit: {kind: apple}\nfruit: {kind: pear}", [], "line 2: key 'fruit' is given twice"),
        ("fruit: {kind: apple}", ["inner.rate=fast"], "inner.rate: input should be a valid number, found 'fast'"),
        ("fruit: {kind: pear, names: 3}", [], "fruit.names: expected a list, found 3"),
        ("fruit: {kind: apple}\ninner: [3]", [], "inner: expected a mapping of keys to values, found [3]"),
        ("fruit: {kind: apple}\npair: [a]", [], "pair.1: this item is required and missing"),
        ("fruit: {kind: apple}\npair: [a, b, c]", [], "pair: expected at most 2 entries, found ['a', 'b', 'c']"),
        ("fruit: {kind: apple}\nmode: fast", [], "mode: expected 'auto' or 'slow' or 'careful', found 'fast'"),
        ("fruit: {kind: apple}\nday: 2024-13-45", [], "c.yaml: month must be in 1..12"),
        ("fruit: {kind: apple}\nmany: {2024-01-01: {}}", [], "line 2: key '2024-01-01' is neither text nor a number"),
        ("fruit: {kind: apple}\nmany:\n  yes: {}", [], "line 3: key 'True' is neither text nor a number"),
        ("fruit: {kind: apple}\n? [a, b]\n: {}", [], "line 2: key '['a', 'b']' is neither text nor a number"),
        ("fruit: {kind: apple}\nfree: &a {x: [*a]}", [], "c.yaml: a value contains itself"),
        ("fruit: {kind: apple}", ["free=&a [*a]"], "--set free=&a [*a]: a value contains itself"),
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


@pytest.mark.parametrize("location", ["nope://bucket/c.yaml", "s4://bucket/c.yaml"])
def test_a_location_of_another_scheme(location: str) -> None:
    sentence = f"^{location}: expected a local path or an s3://, gs:// or abfs:// location$"
    with pytest.raises(storage.LocationError, match=sentence):
        load(Outer, location)


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


@pytest.fixture
def write(tmp_path):
    """Writes YAML files by their paths below a directory; returns the location of the first."""

    def files(**texts: str) -> str:
        for name, text in texts.items():
            file = tmp_path / f"{name.replace('__', '/')}.yaml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        return str(tmp_path / f"{next(iter(texts)).replace('__', '/')}.yaml")

    return files


def test_mappings_merge_and_all_else_is_replaced(write) -> None:
    location = write(
        own="base: below.yaml\ninner: {rate: 2}\nmany: {b: {rate: 5}, c: {}}",
        below="fruit: {kind: pear, names: [a, b]}\ninner: {fruit: {kind: apple}}\nmany: {a: {}, b: {fruit: null}}",
    )
    assert load(Outer, location) == Outer(
        fruit=Pear(kind="pear", names=("a", "b")),
        inner=Inner(rate=2, fruit=Apple(kind="apple")),
        many={"a": Inner(), "b": Inner(rate=5), "c": Inner()},
    )


def test_lists_are_replaced(write) -> None:
    location = write(
        own="base: below.yaml\nfruit: {kind: pear, names: [c]}", below="fruit: {kind: pear, names: [a, b]}"
    )
    assert load(Outer, location).fruit == Pear(kind="pear", names=("c",))


@pytest.mark.parametrize(
    ("own", "below", "value"),
    [
        ("fruit: {kind: pear}", "fruit: {kind: apple, rate: 3}", lambda c: c.fruit == Pear(kind="pear")),
        ("fruit: {kind: apple}", "fruit: {kind: apple, rate: 3}", lambda c: c.fruit == Apple(kind="apple")),
        ("more: {x: {kind: pear}}", "more: {x: {kind: apple, rate: 3}, y: {kind: apple}}",
         lambda c: c.more == {"x": Pear(kind="pear"), "y": Apple(kind="apple")}),
        ("second: {kind: pear}", "second: {kind: apple, rate: 3}", lambda c: c.second == Pear(kind="pear")),
        ("free: {x: {a: 1}}", "free: {x: {b: 2}, y: 3}", lambda c: c.free == {"x": {"a": 1}, "y": 3}),
        # without its kind it is a part of what stands below
        ("fruit: {rate: 4}", "fruit: {kind: apple, rate: 3}", lambda c: c.fruit == Apple(kind="apple", rate=4)),
        # one class or none is no choice: its keys merge
        ("inner: {fruit: {kind: apple}}", "inner: {fruit: {kind: apple, rate: 3}}", lambda c: c.inner.fruit.rate == 3),
    ],
)  # fmt: skip
def test_choices_are_replaced_as_a_whole(own: str, below: str, value, write) -> None:
    fruit = "" if "fruit" in own[:5] else "fruit: {kind: apple}\n"
    assert value(load(Outer, write(own=f"base: below.yaml\n{fruit}{own}", below=below)))


def test_null_takes_a_value_away(write) -> None:
    location = write(
        own="base: below.yaml\ninner: {fruit: null}\nsecond: null",
        below="fruit: {kind: apple}\ninner: {rate: 3, fruit: {kind: apple}}\nsecond: {kind: pear}",
    )
    config = load(Outer, location)
    assert (config.inner, config.second) == (Inner(rate=3), None)


def test_an_empty_mapping_of_free_names_takes_all_of_them_away(write) -> None:
    location = write(
        own="base: below.yaml\nmany: {}\ninner: {}", below="fruit: {kind: apple}\nmany: {a: {}}\ninner: {rate: 3}"
    )
    config = load(Outer, location)
    assert (config.many, config.inner) == ({}, Inner(rate=3))


def test_a_base_of_a_base_relative_to_each_file(write) -> None:
    location = write(
        recipes__own="base: ../shared/middle.yaml\ninner: {rate: 1}",
        shared__middle="base: ../root.yaml\ninner: {rate: 2}\nmany: {middle: {}}",
        root="fruit: {kind: apple}\ninner: {rate: 3}\nmany: {root: {}, middle: {rate: 9}}",
    )
    config = load(Outer, location)
    assert config.fruit == Apple(kind="apple")
    assert config.inner.rate == 1
    assert config.many == {"root": Inner(), "middle": Inner(rate=9)}


def test_an_absolute_base(write, tmp_path) -> None:
    write(below="fruit: {kind: apple}")
    assert load(Outer, write(elsewhere__own=f"base: {tmp_path}/below.yaml")).fruit == Apple(kind="apple")


def test_bases_in_an_object_store() -> None:
    storage.write_text("memory://configs/recipes/own.yaml", "base: ../shared/below.yaml\ninner: {rate: 2}")
    storage.write_text("memory://configs/shared/below.yaml", "base: beside.yaml\nmany: {a: {}}")
    storage.write_text("memory://configs/shared/beside.yaml", "fruit: {kind: apple}")
    config = load(Outer, "memory://configs/recipes/own.yaml")
    assert (config.inner.rate, list(config.many), config.fruit.kind) == (2, ["a"], "apple")


@pytest.mark.parametrize(
    ("location", "relative", "found"),
    [
        ("s3://bucket/configs/own.yaml", "below.yaml", "s3://bucket/configs/below.yaml"),
        ("s3://bucket/configs/own.yaml", "../below.yaml", "s3://bucket/below.yaml"),
        ("s3://bucket/own.yaml", "s3://other/below.yaml", "s3://other/below.yaml"),
        ("own.yaml", "s3://bucket/below.yaml", "s3://bucket/below.yaml"),
        ("configs/own.yaml", "../below.yaml", "below.yaml"),
        ("own.yaml", "below.yaml", "below.yaml"),
        ("configs/own.yaml", "/configs/below.yaml", "/configs/below.yaml"),
    ],
)
def test_where_a_base_is_looked_for(location: str, relative: str, found: str) -> None:
    assert storage.beside(location, relative) == found


def test_bases_in_a_circle(write, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(a="base: b.yaml", b="base: c/../c.yaml", c="base: ./a.yaml")
    with pytest.raises(InputError) as error:
        load(Outer, "a.yaml")
    assert str(error.value) == "a.yaml: its bases form a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml"
    with pytest.raises(InputError, match=r"its bases form a circle: \S+ -> b.yaml -> c.yaml -> a.yaml$"):
        load(Outer, str(tmp_path / "." / "a.yaml").replace("/a.yaml", "/./a.yaml").replace(str(tmp_path), "."))


@pytest.mark.parametrize("base", ["3", "null", "[a.yaml]", "{file: a.yaml}"])
def test_a_base_is_one_name(base: str, write) -> None:
    with pytest.raises(InputError, match=r"own.yaml: base: expected the name of a config file, found "):
        load(Outer, write(own=f"base: {base}\nfruit: {{kind: apple}}"))


def test_a_base_that_is_missing_names_itself(write, tmp_path) -> None:
    with pytest.raises(InputError) as error:
        load(Outer, write(own="base: gone.yaml"))
    assert str(error.value) == f"{tmp_path}/gone.yaml: no such config file"


@pytest.mark.parametrize(
    ("own", "below", "overrides", "sentence"),
    [
        ("inner: {rate: 1}", "fruit: {kind: apple}\ninner: {rte: 1}", [],
         "below.yaml: inner.rte: unknown key; did you mean 'rate'?"),
        ("inner: {rte: 1}", "fruit: {kind: apple}\ninner: {rate: 1}", [],
         "own.yaml: inner.rte: unknown key; did you mean 'rate'?"),
        ("innr: {rate: 1}", "fruit: {kind: apple}", [], "own.yaml: innr: unknown key; did you mean 'inner'?"),
        ("inner: {rate: 1}", "fruit: {kind: apple}\ninnr: 3", [], "below.yaml: innr: unknown key"),
        ("many: {a: {rate: 2}}", "fruit: {kind: apple}\nmany: {a: {rate: fast}, b: {rate: slow}}", [],
         "below.yaml: many.b.rate: input should be a valid number, found 'slow'"),
        ("fruit: {kind: pear, names: [a, 3]}", "fruit: {kind: pear, names: [a, b]}", [],
         "own.yaml: fruit.names.1: input should be a valid string, found 3"),
        ("fruit: {}", "inner: {rate: 1}", [], "own.yaml: fruit.kind: expected one of"),
        ("inner: {rate: 1}", "inner: {rate: 2}", [], "own.yaml: fruit: this key is required and missing"),
        ("inner: {rate: 1}", "fruit: {kind: apple}\ninner: {fruit: {rate: 1}}", [],
         "below.yaml: inner.fruit.kind: this key is required and missing"),
        ("fruit: {kind: plum}", "fruit: {kind: apple}", [], "own.yaml: fruit.kind: expected one of"),
        ("many: {a: {}}", "fruit: {kind: plum}", [], "below.yaml: fruit.kind: expected one of"),
        ("many: {}", "fruit: {kind: apple}", ["more.x.rate=2"],
         "own.yaml with --set more.x.rate=2: more.x.kind: expected one of"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_the_file_it_stands_in(own, below, overrides, sentence, write, tmp_path) -> None:
    with pytest.raises(InputError) as error:
        load(Outer, write(own=f"base: below.yaml\n{own}", below=below), overrides)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path}/{sentence}"), line


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("inner.rate=fast", "inner.rate: input should be a valid number, found 'fast'"),
        ("inner={rate: fast}", "inner.rate: input should be a valid number, found 'fast'"),
        ("inner.rte=1", "inner.rte: unknown key; did you mean 'rate'?"),
        ("fruit.names.0=1", "fruit.names.0: input should be a valid string, found 1"),
        ("fruit.names.4=b", "fruit.names.4: '4' is no position in a list of 1"),
        ("fruit.kind=plum", "fruit.kind: expected one of 'apple', 'pear', found 'plum'"),
    ],
)
def test_a_wrong_change_is_told_as_it_was_given(override: str, sentence: str, write) -> None:
    location = write(own="fruit: {kind: pear, names: [a]}\ninner: {rate: 1}")
    with pytest.raises(InputError) as error:
        load(Outer, location, ["many.a.rate=1", override])
    assert str(error.value) == f"--set {override}: {sentence}"
    with pytest.raises(InputError) as error:
        load(Outer, location, ["many.a.rate=1", override], ["first", "second"])
    assert str(error.value) == f"second: {sentence}"


def test_changes_from_the_command_line_stand_above_all(write) -> None:
    location = write(
        own="base: below.yaml\ninner: {rate: 1}",
        below="fruit: {kind: pear, names: [a, b]}\ninner: {rate: 2}\nmany: {a: {rate: 3}}",
    )
    config = load(Outer, location, ["inner.rate=4", "fruit.names.1=c", "many.a.rate=5", "inner.rate=6"])
    assert (config.inner.rate, config.fruit.names, config.many["a"].rate) == (6, ("a", "c"), 5)
    assert load(Outer, location).inner.rate == 1, "nothing is remembered from one call to the next"


def test_a_schema_may_have_a_key_of_that_name(write) -> None:
    assert load(Based, write(own="base: 3")).base == 3


def test_a_config_comes_back_from_its_yaml(write, tmp_path) -> None:
    config = build(
        Outer,
        {
            "fruit": {"kind": "pear", "names": ["Ä: '#'", "null", "1e-4"]},
            "inner": {"rate": 1e-7, "fruit": {"kind": "apple"}},
            "more": {"yes": {"kind": "apple", "rate": 1e300}},
            "day": "2024-03-01",
            "free": {"a": [1, {"b": None}]},
            "threads": 3,
        },
        "test",
    )
    assert load(Outer, write(own=to_yaml(config))) == config
    assert load(Outer, write(top="base: own.yaml")) == config


def test_runtime_settings_are_left_out_of_the_digest() -> None:
    config = Outer(fruit=Apple(kind="apple"))
    assert digest(config) == digest(config.model_copy(update={"threads": 8}))
    assert digest(config) != digest(config.model_copy(update={"inner": Inner(rate=2)}))
    assert digest(config) == digest(Outer(fruit=Apple(kind="apple", rate=1.0), inner=Inner()))  # defaults given or not


ROOT = Path(__file__).parents[1]


def test_shipped_experiments_come_back_from_their_yaml(write, monkeypatch) -> None:
    from ray_ggsm.experiment import Experiment

    monkeypatch.chdir(ROOT)
    for file in ("configs/own_events/quickstart.yaml", "configs/journey/quickstart.yaml"):
        config = load(Experiment, file)
        assert load(Experiment, write(own=to_yaml(config))) == config
