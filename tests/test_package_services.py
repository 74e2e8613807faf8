"""services.xml and query profiles: what is read, what is read over, and what is refused by its name."""

from __future__ import annotations

import pytest

from clipsearch.engine.package import deploy_warnings, load_package
from clipsearch.engine.package.services import Services, parse_query_profiles, parse_services
from clipsearch.errors import PackageError

OPEN_NLP = """<config name="ai.vespa.opennlp.open-nlp">
  <snowballStemmingForEnglish>true</snowballStemmingForEnglish>
</config>"""
CONTENT = '<content id="c" version="1.0"><documents><document type="a" mode="index"/></documents></content>'


def services(container: str = "<search/><document-api/>", content: str = CONTENT, more: str = "") -> Services:
    text = (
        f'<services version="1.0"><container id="front" version="1.0">{container}</container>{content}{more}</services>'
    )
    return parse_services({"services.xml": text.encode()})


def refusal(container: str = "<search/>", content: str = CONTENT, more: str = "") -> str:
    with pytest.raises(PackageError) as caught:
        services(container, content, more)
    assert caught.value.file == "services.xml"
    return str(caught.value)


def query_profiles(**files: str) -> dict[str, dict[str, str]]:
    return parse_query_profiles({f"search/query-profiles/{name}.xml": text.encode() for name, text in files.items()})


def test_documents_clusters_and_stemming_are_read() -> None:
    assert services() == Services(("a",), "c", "front", False)
    assert services(f"<search/>{OPEN_NLP}").snowball_english


def test_what_changes_no_answer_is_read_over() -> None:
    container = """<search/><document-api/><document-processing/>
        <nodes jvm-options="-Xmx1g"><node hostalias="n"/></nodes>
        <http><server id="s" port="8080"/></http><accesslog type="json"/>"""
    content = """<content id="c" version="1.0"><min-redundancy>2</min-redundancy><redundancy>1</redundancy>
        <engine><proton><searchable-copies>1</searchable-copies></proton></engine>
        <documents><document type="a" mode="index" global="false"/><document-processing cluster="front"/></documents>
        <group><distribution partitions="1|*"/><node hostalias="n" distribution-key="0"/></group>
        <tuning><resource-limits><disk>0.9</disk></resource-limits></tuning>
        <search><query-timeout>5</query-timeout></search>
        </content>"""
    assert services(container, content, '<admin version="2.0"/>').documents == ("a",)


@pytest.mark.parametrize(
    ("container", "content", "more", "message"),
    [
        ('<search/><component id="clip" type="colbert-embedder"/>', CONTENT, "", "<component> clip colbert-embedder"),
        ('<search/><handler id="my.Handler"/>', CONTENT, "", "<handler> my.Handler"),
        ('<search><chain id="default"><searcher id="x"/></chain></search>', CONTENT, "", "<chain> in <search>"),
        ("<search/><document-processing><chain id='d'/></document-processing>", CONTENT, "", "<chain> in <document"),
        ("<search/><document-api><ignore-undefined-fields/></document-api>", CONTENT, "", "<ignore-undefined-fields>"),
        ('<search/><config name="my.config"/>', CONTENT, "", "<config name='my.config'>"),
        ("<search/>" + OPEN_NLP.replace("snowballStemmingForEnglish", "cjk"), CONTENT, "", "<cjk>"),
        ("<document-api/>", CONTENT, "", "no <container> has <search/>"),
        ("<search/>", "", "", "one <content> cluster, here are 0"),
        ("<search/>", CONTENT + CONTENT, "", "one <content> cluster, here are 2"),
        ("<search/>", CONTENT.replace('mode="index"', 'mode="streaming"'), "", "'streaming' is not supported"),
        ("<search/>", CONTENT.replace('mode="index"', 'mode="index" selection="a.x &gt; 1"'), "", "'a.x > 1'"),
        (
            "<search/>",
            CONTENT.replace("<documents>", "<documents garbage-collection='true'>"),
            "",
            "garbage collection",
        ),
        ("<search/>", '<content id="c" version="1.0"><documents/></content>', "", "lists no document type"),
        ("<search/>", CONTENT, "<routing/>", "<routing> is not supported"),
        ("<search/>", CONTENT, f'<container id="b">{OPEN_NLP}<search/></container>', "the containers differ"),
    ],
)
def test_what_would_change_an_answer_is_refused_by_its_name(
    container: str, content: str, more: str, message: str
) -> None:
    assert message in refusal(container, content, more)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<services>",
        "<hosts/>",
        '<!DOCTYPE s [<!ENTITY a "b">]><services>&a;</services>',
        '<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><services>&a;</services>',
    ],
)
def test_broken_or_hostile_xml_is_refused(text: str) -> None:
    with pytest.raises(PackageError, match=r"^services\.xml"):
        parse_services({"services.xml": text.encode()})


def test_a_package_without_services_or_without_a_listed_schema_is_refused() -> None:
    with pytest.raises(PackageError, match=r"has no services\.xml"):
        load_package({"schemas/a.sd": b"schema a { document a { } }"})
    text = f'<services version="1.0"><container id="x"><search/></container>{CONTENT}</services>'
    with pytest.raises(PackageError, match=r"document type 'a' has no schemas/a\.sd"):
        load_package({"services.xml": text.encode()})


def test_a_refusal_names_its_line() -> None:
    text = f'<services version="1.0">\n<container id="x"><search/>\n<handler id="h"/></container>{CONTENT}</services>'
    with pytest.raises(PackageError, match=r"^services\.xml, line 3: <handler> h"):
        parse_services({"services.xml": text.encode()})
    profile = '<query-profile id="default">\n<field name="a">1</field>\n<dimensions>a</dimensions></query-profile>'
    with pytest.raises(PackageError, match=r"default\.xml, line 3: <dimensions>"):
        query_profiles(default=profile)


def test_java_components_are_refused() -> None:
    text = f'<services version="1.0"><container id="x"><search/></container>{CONTENT}</services>'
    files = {"services.xml": text.encode(), "schemas/a.sd": b"schema a { document a { } }", "components/x.jar": b""}
    with pytest.raises(PackageError, match=r"components/x\.jar: Java components"):
        load_package(files)


def test_answers_that_would_differ_from_vespa_are_announced_at_deploy() -> None:
    text = f'<services version="1.0"><container id="x"><search/></container>{CONTENT}</services>'
    schema = b"schema a { document a { field t type string { indexing: index } } }"
    warnings = deploy_warnings(load_package({"services.xml": text.encode(), "schemas/a.sd": schema}))
    assert len(warnings) == 2
    assert "sets no language" in warnings[0]
    assert "snowballStemmingForEnglish" in warnings[1]


def test_query_profiles_are_flattened_and_inherit() -> None:
    profiles = query_profiles(
        default="""<query-profile id="default"><field name="timeout"> 2s </field>
            <field name="hits">5</field></query-profile>""",
        mine="""<query-profile id="mine" inherits="default"><description>about</description>
            <field name="ranking"><field name="profile">hybrid</field></field>
            <field name="hits">20</field></query-profile>""",
    )
    assert profiles["default"] == {"timeout": "2s", "hits": "5"}
    assert profiles["mine"] == {"timeout": "2s", "hits": "20", "ranking.profile": "hybrid"}


def test_the_empty_type_that_pyvespa_writes_is_accepted_and_others_are_not() -> None:
    path = "search/query-profiles/types/root.xml"
    assert parse_query_profiles({path: b'<query-profile-type id="root" inherits="native"/>'}) == {}
    with pytest.raises(PackageError, match="declare query tensors as rank profile inputs"):
        parse_query_profiles(
            {path: b'<query-profile-type id="root"><field name="a" type="string"/></query-profile-type>'}
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<query-profile id="other"/>', "expected <query-profile id='default'>"),
        ('<query-profile id="default" inherits="none"/>', "inherits 'none'"),
        ('<query-profile id="default"><dimensions>a</dimensions></query-profile>', "<dimensions>"),
        ('<query-profile id="default"><field name="a" overridable="false">1</field></query-profile>', "overridable"),
        ('<query-profile id="default"><field name="yql">select %{a}</field></query-profile>', "substitution"),
        ('<query-profile id="default">', "not well-formed XML"),
    ],
)
def test_query_profiles_that_are_not_understood_are_refused(text: str, message: str) -> None:
    with pytest.raises(PackageError, match=r"search/query-profiles/default\.xml") as caught:
        query_profiles(default=text)
    assert message in str(caught.value)
