"""The programmatic checks of prompts: each rule on texts that follow it and on texts that do not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loop.checks import RULES, Check, checks_share, count_sentences, read_checked_prompts
from benchmarks.loop.languages import LANGUAGES, language_of

CASES = [
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and ESA.", "It is A-ONE, OK?", "I'M in", "*STOP* and «GO»"],
        ["NASA's Rover", "Ab Cd Ef", "A1b 22 33"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["Only ONE here.", "None.", "STATE-OF-THE-ART is one"],
        ["TWO here: YES", "DON'T"],
    ),
    (
        "change_case:english_capital",
        {},
        ["THIS IS LOUD.", "BUY 2 OF THEM!", "PARIS"],
        ["THIS IS LOUd.", "quiet", "DAS IST EIN SATZ UND ER IST NICHT ENGLISCH.", "42", "ЭТО ПО-РУССКИ."],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["this is quiet.", "1. one of the things", "the café is open"],
        ["This is quiet.", "LOUD", "das ist ein satz und er ist nicht englisch.", "42", "это по-русски."],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a haiku. "},
        ["Write a haiku. Old pond.", "  write a HAIKU.\nOld pond."],
        ["Old pond.", "Sure! Write a haiku. Old pond.", "Write a haiku"],
    ),
    (
        "combination:two_responses",
        {},
        ["One\n******\nTwo", "******One******Two******"],
        [
            "One",
            "One******One",
            "One ****** One",
            "One******Two******Three",
            "One************Two",
            "One******",
            "One***Two",
        ],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] and [address]", "[a][b][c]"],
        ["[name]", "no brackets", "[name\nand address] [city]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Dear you.\n\nP.S. I forgot.", "Bye. p. s. late", "P.S."],
        ["Dear you.", "PS I forgot.", "P.S I forgot"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Dear you.\nP.P.S. And more.", "p. p. s and more", "P.P.S"],
        ["Dear you.\nP.S. I forgot.", "PPS more"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", " Well. My answer is maybe. ", "My answer is no. Sorry."],
        ["Yes.", "My answer is yes", "my answer is no."],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "```\n[]\n```", "  12 "],
        ["{a: 1}", 'Here: {"a": 1}', "```json\n```", '{"a": 1', "[" * 100_000],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2 SECTION3"],
        ["SECTION 1\na", "Section 1\na\nSection 2\nb", "SECTION A SECTION B"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "- one\n  - two\nend", "* one\n- two", "**bold**\n*one\n* two"],
        ["* one", "* one\n* two\n* three", "** one\n** two", "1. one\n2. two", "one - two * three"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two*", "**one** and **two**"],
        ["*one*", "one and two", "**  ** and *one*", "*one\ntwo*", "* one\n* two"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<Old pond>>\nA frog.", "Here: <<a>>"],
        ["Old pond", "<Old pond>", "<<>>", "<<  >>", "<<Old\npond>>"],
    ),
    (
        "keywords:existence",
        {"keywords": ["mom", "tea"]},
        ["Mom drinks tea.", "The moment of STEAM"],
        ["Mom drinks coffee.", "tea", "nothing"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rock", "c++"]},
        ["rocket", "a bedrock", "stone"],
        ["A rock.", "ROCK!", "stone and rock", "C++ code"],
    ),
    (
        "keywords:frequency",
        {"keyword": "story", "frequency": 2, "relation": "at least"},
        ["A story of a story.", "STORY storyteller"],
        ["A story.", "stor y", "tale"],
    ),
    (
        "keywords:frequency",
        {"keyword": "story", "frequency": 2, "relation": "less than"},
        ["A story.", "tale"],
        ["A story of a Story."],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "N", "let_frequency": 3, "let_relation": "at least"},
        ["no one nods", "NNN"],
        ["nun", "a"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "less than"},
        ["# one", "none"],
        ["# one # two", "## two"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein Satz.", "Die Ausgaben von Google und Apple sind gestiegen."],
        ["This is a sentence.", "Questa è una frase.", "12 + 12", "यह एक वाक्य है।"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Summary"},
        ["One.\n\nSummary of it.", 'One.\n\n"summary", he said.', "One.\n\nSUMMARY.\n\n"],
        [
            "One.\n\nTwo.",
            "Summary.\n\nOne.",
            "One.\n\nSummaries.",
            "One.\n\nSummary.\n\nThree.",
            "Summary",
            "One.\n\n\n\nSummary.",
        ],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["One.\n***\nTwo.", "***\nOne.\n***\nTwo.\n***"],
        ["One.", "One.\n\nTwo.", "One.\n***\nTwo.\n***\nThree.", "One.******Two."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two! Three?", 'He said "Stop!" and left. She did not.', "one. two. three."],
        ["One. Two.", "One\nTwo\nThree", "Mr. Smith met Dr. J. Smith at 3.15."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["One", "Only one, e.g. this one."],
        ["One. Two.", "Hm... Two."],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ["one two three four", "it's well-known"],
        ["one two three", "one, two -- three!"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "less than"},
        ["one two three"],
        ["one two three four"],
    ),
    ("punctuation:no_comma", {}, ["No pause; none.", "1.000"], ["A pause, one.", "1,000"]),
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        ["So it is. Any other questions?", 'So. "ANY OTHER QUESTIONS?" \n'],
        ["Any other questions? Ask.", "Any other questions"],
    ),
    (
        "startend:quotation",
        {},
        ['"All of it."', ' "a" and "b" '],
        ['"', "'All of it.'", 'He said "yes"', "“All of it.”"],
    ),
]

# Article 1 of the Universal Declaration of Human Rights, or its beginning.
ARTICLE_1 = {
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق، وعليهم أن يعامل بعضهم بعضا بروح الإخاء.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени с разум и съвест.",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y dotados como están de razón.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند. همه دارای عقل و وجدان هستند.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ ಹಾಗೂ ಘನತೆ ಮತ್ತು ಹಕ್ಕುಗಳಲ್ಲಿ ಸಮಾನರಾಗಿದ್ದಾರೆ.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ml": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചിട്ടുള്ളവരാണ്.",
    "mr": "सर्व मानवी व्यक्ती जन्मतः स्वतंत्र आहेत आणि त्यांना समान प्रतिष्ठा व समान अधिकार आहेत.",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
    "pa": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri.",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю.",
    "ur": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔ انہیں ضمیر اور عقل ودیعت ہوئی ہے۔",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])


@every_case
def test_a_text_that_follows_a_rule_holds(case):
    rule, args, followed, _ = case
    assert [text for text in followed if not Check(rule=rule, args=args).holds(text)] == []


@every_case
def test_a_text_that_does_not_follow_a_rule_fails(case):
    rule, args, _, broken = case
    assert [text for text in broken if Check(rule=rule, args=args).holds(text)] == []


def test_every_rule_has_its_cases():
    assert {rule for rule, *_ in CASES} == set(RULES)


@every_case
@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0\u2003\n"])
def test_an_empty_or_blank_text_follows_no_rule(case, text):
    assert not Check(rule=case[0], args=case[1]).holds(text)


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_every_rule_gives_an_answer_for_any_text(text):
    for rule, args, *_ in CASES:
        assert Check(rule=rule, args=args).holds(text) in (True, False)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("No end", 1),
        ("One. Two. And a rest", 3),
        ("Wait... what? Yes!", 2),
        ("Wait... What? Yes!", 3),
        ("The U.S. is large. It is.", 2),
        ("1. First\n2. Second", 3),
        ("He left (at last.) She stayed.", 2),
        ("Is it “so?” he asked.", 2),
    ],
)
def test_sentences_are_counted(text, sentences):
    assert count_sentences(text) == sentences


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_a_language_is_told_by_one_sentence_of_it(code):
    assert language_of(ARTICLE_1[code]) == code


def test_the_script_that_most_letters_are_in_decides():
    assert language_of(f"SRE: {ARTICLE_1['ko']}") == "ko"
    assert language_of(f"{ARTICLE_1['en']} 자유") == "en"
    assert language_of("12 + 30 = 42!") is None
    assert language_of("人人生而自由") is None


def test_the_share_is_of_the_checks_that_hold():
    checks = [
        Check(rule="punctuation:no_comma", args={}),
        Check(rule="detectable_format:title", args={}),
        Check(rule="startend:quotation", args={}),
        Check(rule="length_constraints:number_words", args={"num_words": 2, "relation": "at least"}),
    ]
    assert checks_share(checks, '"<<Old pond>>"') == 1
    assert checks_share(checks, "Old pond") == 2 / 4
    assert checks_share(checks, "pond,") == 0
    assert checks_share(checks, "") == checks_share(checks, "\n") == 0
    with pytest.raises(ValueError, match="no checks"):
        checks_share([], "Old pond")


@pytest.mark.parametrize(
    ("rule", "args", "message"),
    [
        ("punctuation:no_coma", {}, "unknown rule 'punctuation:no_coma'"),
        ("punctuation:no_comma", {"num_words": 3}, "punctuation:no_comma takes no num_words, got 3"),
        ("keywords:frequency", {"keyword": "a", "frequency": 1}, "keywords:frequency needs relation"),
        (
            "length_constraints:number_words",
            {"num_words": 3, "relation": "at most"},
            "relation must be 'at least' or 'less than', got 'at most'",
        ),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 0}, "num_paragraphs must be .*, got 0"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": True}, "num_paragraphs must be .*, got True"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": "3"}, "num_paragraphs must be .*, got '3'"),
        ("keywords:existence", {"keywords": "mom"}, "keywords must be .*, got 'mom'"),
        ("keywords:forbidden_words", {"forbidden_words": []}, r"forbidden_words must be .*, got \[\]"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "letter must be one character, got 'ab'",
        ),
        ("language:response_language", {"language": "xx"}, "language must be one of ar, .*, got 'xx'"),
        ("language:response_language", {"language": ["de"]}, r"language must be one of ar, .*, got \['de'\]"),
        ("detectable_content:postscript", {"postscript_marker": "PS"}, "postscript_marker must be .*, got 'PS'"),
        ("startend:end_checker", {"end_phrase": " "}, "end_phrase must be .*, got ' '"),
    ],
)
def test_a_check_that_cannot_be_used_is_refused_by_name_and_value(rule, args, message):
    with pytest.raises(ValueError, match=message):
        Check(rule=rule, args=args)


def test_prompts_without_checks_are_passed_over_and_a_bad_one_is_named(tmp_path):
    rows = [
        {"id": "one", "prompt": "Talk."},
        {"id": "two", "prompt": "Talk without a comma.", "checks": [{"rule": "punctuation:no_comma", "args": {}}]},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (prompt,) = read_checked_prompts(path)
    assert (prompt.id, prompt.prompt) == ("two", "Talk without a comma.")
    assert prompt.checks == (Check(rule="punctuation:no_comma", args={}),)
    rows[1]["checks"][0]["rule"] = "punctuation:none"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="prompt two: unknown rule 'punctuation:none'"):
        read_checked_prompts(path)


def test_the_rules_of_all_shared_prompts_are_known(test_data):
    prompts = read_checked_prompts(test_data / "prompts.jsonl")
    assert len(prompts) == 361
    assert {check.rule for prompt in prompts for check in prompt.checks} == set(RULES)
    repeated = [check for prompt in prompts for check in prompt.checks if "prompt_to_repeat" in check.args]
    assert repeated
    assert all(check.holds(f"{check.args['prompt_to_repeat']}\n\nHere it is.") for check in repeated)
