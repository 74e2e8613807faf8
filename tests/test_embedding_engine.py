"""embed() in a served engine, at query and at feed time, and the components and schemas that ask for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import orjson
import pytest
from embedder_support import MODEL, TOKENIZER, component, onnx_model, tokenizer_json, vectors
from numpy.typing import NDArray

from clipsearch.engine.embedding import EmbedderConfig
from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request
from clipsearch.engine.package import load_package, write_zip
from clipsearch.errors import PackageError

DEPLOY = "/application/v2/tenant/default/prepareandactivate"


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)


SERVICES = """
<services version="1.0">
  <container id="default" version="1.0"><search/><document-api/>{components}
    <config name="ai.vespa.opennlp.open-nlp"><snowballStemmingForEnglish>true</snowballStemmingForEnglish></config>
  </container>
  <content id="c" version="1.0"><documents><document type="picture" mode="index"/></documents></content>
</services>
"""
SCHEMA = """
schema picture {
    document picture {
        field caption type string { indexing: summary | index }
        field captions type array<string> { indexing: summary }
    }
    field vector type tensor<bfloat16>(x[16]) {
        indexing: input caption | embed | attribute | index | summary
        attribute { distance-metric: prenormalized-angular }
    }
    field bits type tensor<int8>(x[2]) { indexing: input caption | embed tiny | attribute | summary }
    field packed type tensor<int8>(x[2]) { indexing: input caption | embed tiny | binarize | pack_bits | attribute }
    field each type tensor<float>(n{}, x[16]) { indexing: input captions | embed tiny | attribute | summary }
    rank-profile near {
        inputs {
            query(q) tensor<float>(x[16])
            query(b) tensor<int8>(x[2])
        }
        first-phase { expression: sum(query(q) * attribute(vector)) }
        summary-features {
            attribute(packed)
            query(b)
        }
    }
}
"""


def files(components: str = "", schema: str = SCHEMA, model: bytes | None = None) -> dict[str, bytes]:
    parts = {
        "services.xml": SERVICES.format(components=components or component(settings="<normalize>true</normalize>"))
    }
    texts = {path: text.encode() for path, text in (parts | {"schemas/picture.sd": dedent(schema)}).items()}
    return texts | {MODEL: model or onnx_model(), TOKENIZER: tokenizer_json()}


class Served:
    """An engine on a folder, asked through its handlers."""

    def __init__(self, folder: Path) -> None:
        self.engine = Engine(folder)

    def deploy(self, content: dict[str, bytes], path: str = DEPLOY) -> tuple[int, Any]:
        request = Request("POST", path, (), {"content-type": "application/zip"}, write_zip(content))
        return self._read(self.engine.deploy.handle(request))

    def put(self, key: str, **fields: Any) -> tuple[int, Any]:
        body = orjson.dumps({"fields": fields})
        request = Request("POST", f"/document/v1/t/picture/docid/{key}", (), {}, body)
        return self._read(self.engine.documents.handle(request))

    def search(self, **parameters: str) -> tuple[int, Any]:
        pairs = tuple((name.replace("__", "."), value) for name, value in parameters.items())
        return self._read(self.engine.container.handle(Request("GET", "/search/", pairs)))

    def _read(self, response: Any) -> tuple[int, Any]:
        answer = response.result() if hasattr(response, "result") else response
        return answer.status, orjson.loads(answer.body)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    engine = Served(tmp_path)
    yield engine
    engine.engine.close()


def query(served: Served, text: str = "red boat", **more: str) -> tuple[int, Any]:
    given = {"yql": "select * from picture where true", "ranking": "near", "text": text, **more}
    return served.search(**{"input.query(q)": "embed(@text)", "input.query(b)": "embed(tiny, @text)", **given})


def test_documents_and_queries_are_embedded_by_the_deployed_model(served: Served) -> None:
    assert served.deploy(files())[0] == 200
    assert served.put("1", caption="a red boat", captions=["the sea", "on the sea"])[0] == 200
    assert served.put("2", caption="the house")[0] == 200
    status, answer = query(served)
    assert status == 200, answer
    hits = answer["root"]["children"]
    assert [hit["id"] for hit in hits] == ["id:t:picture::1", "id:t:picture::2"]
    expected = unit(vectors("red", "boat").mean(0)) @ unit(vectors("a", "red", "boat").mean(0))
    assert hits[0]["relevance"] == pytest.approx(float(expected), abs=0.01)
    first = hits[0]["fields"]
    np.testing.assert_allclose(first["vector"]["values"], unit(vectors("a", "red", "boat").mean(0)), atol=0.01)
    assert list(first["each"]["blocks"]) == ["0", "1"]
    np.testing.assert_allclose(first["each"]["blocks"]["1"], unit(vectors("on", "the", "sea").mean(0)), rtol=1e-5)
    bits = np.packbits(vectors("a", "red", "boat").mean(0) > 0).view(np.int8).tolist()
    assert first["bits"]["values"] == first["summaryfeatures"]["attribute(packed)"]["values"] == bits
    asked = np.packbits(vectors("red", "boat").mean(0) > 0).view(np.int8).tolist()
    assert first["summaryfeatures"]["query(b)"]["values"] == asked
    assert "each" not in hits[1]["fields"]


def test_nearest_neighbor_searches_what_was_embedded(served: Served) -> None:
    served.deploy(files())
    for key, caption in enumerate(("a red boat", "the house", "on the sea")):
        served.put(str(key), caption=caption)
    status, answer = query(
        served, "the house", yql="select * from picture where {targetHits:1}nearestNeighbor(vector,q)"
    )
    assert status == 200, answer
    assert answer["root"]["children"][0]["id"] == "id:t:picture::1"


def test_a_query_profile_may_embed_the_querys_text(served: Served) -> None:
    profile = """<query-profile id="look">
        <field name="yql">select * from picture where {targetHits:1}nearestNeighbor(vector,q)</field>
        <field name="ranking">near</field>
        <field name="input.query(q)">embed(tiny, @text)</field>
    </query-profile>"""
    served.deploy(files() | {"search/query-profiles/look.xml": profile.encode()})
    for key, caption in enumerate(("a red boat", "the house")):
        served.put(str(key), caption=caption)
    status, answer = served.search(queryProfile="look", text="house")
    assert status == 200, answer
    assert answer["root"]["children"][0]["id"] == "id:t:picture::1"


def test_a_redeployed_model_embeds_all_documents_anew_as_reindexing_does(served: Served) -> None:
    served.deploy(files())
    served.put("1", caption="the sea")
    served.deploy(files(component(settings="<pooling-strategy>cls</pooling-strategy>")))
    served.put("2", caption="the sea")
    hits = query(served)[1]["root"]["children"]
    shown = {hit["id"][-1]: hit["fields"]["summaryfeatures"]["attribute(packed)"]["values"] for hit in hits}
    assert shown["1"] == shown["2"] == np.packbits(vectors()[0] > 0).view(np.int8).tolist()


def test_a_query_that_cannot_be_embedded_is_answered_400(served: Served) -> None:
    served.deploy(files())
    status, answer = served.search(
        **{"yql": "select * from picture where true", "ranking": "near", "input.query(q)": "embed(@text)"}
    )
    assert status == 400
    assert "Could not resolve query parameter reference 'text'" in answer["root"]["errors"][0]["message"]


def test_a_restart_serves_the_same_vectors_and_loads_no_model_for_it(served: Served, tmp_path: Path) -> None:
    served.deploy(files())
    served.put("1", caption="a red boat")
    before = query(served)[1]["root"]["children"]
    served.engine.close()
    served.engine = Engine(tmp_path)
    assert served.engine.deploy._deployments.generation == 2
    assert query(served)[1]["root"]["children"] == before


@pytest.mark.parametrize("path", [DEPLOY, "session"])
def test_a_broken_model_is_refused_at_deploy_and_at_prepare(served: Served, path: str) -> None:
    broken = files(model=b"not a model")
    if path == DEPLOY:
        status, answer = served.deploy(broken)
    else:
        assert served.deploy(broken, "/application/v2/tenant/default/session")[0] == 200
        prepare = Request("PUT", "/application/v2/tenant/default/session/2/prepared")
        status, answer = served._read(served.engine.deploy.handle(prepare))
    assert (status, answer["error-code"]) == (400, "INVALID_APPLICATION_PACKAGE")
    assert "embedder 'tiny': models/tiny.onnx cannot be loaded as an ONNX model" in answer["message"]
    assert served.engine.package is None


def test_an_engine_without_embedders_never_loads_what_they_need() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom clipsearch.engine.engine import compile_programs\n"
        "from clipsearch.engine.package import load_package, read_folder\n"
        "compile_programs(load_package(read_folder(Path(sys.argv[1]))))\n"
        "assert not {'onnxruntime', 'tokenizers', 'onnx', 'torch'} & set(sys.modules)"
    )
    app = Path(__file__).parent / "apps" / "albums"
    subprocess.run([sys.executable, "-c", code, str(app)], check=True, timeout=60)


# ---- services.xml and schemas


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (component("a") + component("b"), "Multiple embedders are provided but no embedder id is given"),
        (component("other"), "Can't find embedder 'tiny'"),
        ('<component id="c" type="colbert-embedder"/>', "<component> c colbert-embedder: not supported by the local"),
        ('<component id="com.x.MyEmbedder" bundle="b"/>', "<component> com.x.MyEmbedder: not supported by the local"),
        (component("bad id"), "needs an id"),
        (component(settings="<pooling-strategy>max</pooling-strategy>"), "'max' is not a pooling strategy"),
        (component(settings="<max-tokens>many</max-tokens>"), "'many' is not a number of tokens"),
        (component(settings="<batching/>"), "<batching> is not supported by the local engine"),
        (component().replace(f'path="{MODEL}"', 'model-id="e5-small-v2"'), "a model by model-id is not supported"),
        (component().replace(f'path="{MODEL}"', 'url="http://x/y"'), "a model by url is not supported"),
        (component().replace(MODEL, "../../etc/passwd"), "the application package has no file '../../etc/passwd'"),
        ('<component id="tiny" type="hugging-face-embedder"/>', "needs <transformer-model path='...'>"),
    ],
)
def test_components_that_are_no_such_embedder_are_refused_by_name(given: str, message: str) -> None:
    with pytest.raises(PackageError) as caught:
        load_package(files(given))
    assert message in str(caught.value)


def test_settings_of_the_component_are_read() -> None:
    settings = (
        "<max-tokens>77</max-tokens><transformer-input-ids>i</transformer-input-ids>"
        "<transformer-attention-mask>m</transformer-attention-mask><transformer-output>o</transformer-output>"
        "<transformer-token-type-ids>t</transformer-token-type-ids><pooling-strategy>cls</pooling-strategy>"
        "<prepend><query>query:</query><document>passage:</document></prepend>"
        "<onnx-execution-mode>parallel</onnx-execution-mode><onnx-intraop-threads>-4</onnx-intraop-threads>"
    )
    config = load_package(files(component(settings=settings))).embedders["tiny"].config
    assert config == EmbedderConfig(
        "tiny", MODEL, TOKENIZER, 77, "i", "m", "t", "o", "cls", False, "query:", "passage:", 0
    )


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("tensor<float>(a{},b{}) { indexing: input caption | embed | attribute }", "with one indexed dimension"),
        ("tensor<float>(n{},x[4]) { indexing: input caption | embed | attribute }", "takes array<string>, not string"),
        ("tensor<float>(x[4]) { indexing: input captions | embed | attribute }", "takes string, not array<string>"),
        ("tensor<float>(n{},x[4]) { indexing: input captions | embed tiny n | attribute }", "a dimension for embed"),
        ("string { indexing: input caption | embed | attribute }", "makes a tensor with one indexed dimension"),
    ],
)
def test_embed_to_what_it_cannot_make_is_refused_at_deploy(field: str, message: str) -> None:
    schema = SCHEMA.replace("    field vector", f"    field wrong type {field}\n    field vector", 1)
    with pytest.raises(PackageError, match=r"schemas/picture\.sd, line \d+: field 'wrong': ") as caught:
        load_package(files(schema=schema))
    assert message in str(caught.value)
