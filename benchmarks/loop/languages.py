"""Which of IFEval's languages a text is written in, by its script and then by its most frequent words.

Enough to tell whether a completion kept to the language it was asked for; no general detector. Deterministic, which the
detector of the original is not without a seed, and without a model. It knows the thirty languages of IFEval and no
other: Dutch is taken for the one of them whose short words it shares.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

# A letter's script is the first word of its Unicode name. Japanese is told by its kana.
_SCRIPTS = {
    "LATIN": ("en", "de", "es", "fr", "it", "pt", "pl", "fi", "vi", "sw"),
    "CYRILLIC": ("ru", "uk", "bg"),
    "ARABIC": ("ar", "fa", "ur"),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "BENGALI": ("bn",),
    "GUJARATI": ("gu",),
    "GURMUKHI": ("pa",),
    "HANGUL": ("ko",),
    "HEBREW": ("he",),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "THAI": ("th",),
}
LANGUAGES = frozenset(language for written in _SCRIPTS.values() for language in written)

# About as many for each language of a script, so that none is favoured; a word may stand under several.
_FREQUENT_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to in a is that for it on with as you this be are was by have from not or at your my i we an "
        "can will no our they he she but so me do if all when what there their his her has had how who its more",
        "de": "der die das und ist zu den nicht von sie ein eine mit es sich auf für dem im auch als an ich wir dass "
        "wie aus bei nach ihr wird oder einen einer sind war hat haben werden kann über zum zur so noch nur mein du",
        "es": "el la de que y en los se del las un por con no una su para es al lo como más pero sus le ya o este sí "
        "porque esta entre cuando muy sin sobre también me hasta hay donde quien yo son eso mi te tu nos está",
        "fr": "le la les de des du et est en que un une pour dans qui sur pas plus par au ce il elle se avec ne je "
        "vous nous son sa ses sont mais ou cette comme tout être aux mon ma tu leur même fait si on ont été",
        "it": "il la di che e è un una per in non con del della i le si da lo gli dei delle nel nella al alla come più "
        "ma sono questo questa anche mi ci ho ha tra o se io mio tuo suo sul sulla dal perché così quando",
        "pt": "o a de que e do da em um para com não uma os no se na por mais as dos como mas foi ao ele das à seu sua "
        "ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era são você meu minha",
        "pl": "i w na z się do nie że jest to o jak po co ale od za przez dla są tak był była oraz ten ta tym czy jego "
        "jej już tylko lub który która które może być bardzo ich my ja ty mnie jako przy nas",
        "fi": "ja on ei se että hän oli joka mutta ovat ole kun myös niin tai sen kuin jos mitä vain siitä mukaan "
        "olen minä sinä me he ne tämä tämän sekä voi kaikki nyt vielä jo kanssa ennen olla ollut hänen joita",
        "vi": "là và của có không được cho một người trong với các đã này những để từ khi đến ra vào như nhưng cũng về "
        "tôi bạn đó mọi nhiều hay hoặc rất phải sẽ tại lại nên thì mà chúng ta bị hơn",
        "sw": "na ya wa kwa ni katika la za cha kuwa hii huu hilo kama yake lakini pia au si sana watu mtu hiyo huyo "
        "mimi wewe yeye sisi wao yangu yako wake wote zote hakuna kila ambao ambayo baada kabla nini alikuwa vya",
        "ru": "и в не на что с по это как он она но к у из за от так же все вы мы я его её для или бы был была мне "
        "есть если уже только когда чтобы может очень их они о до быть этот ты",
        "uk": "і в не на що з та це як він вона але до у із за від так же всі ви ми я його її для або би був була мені "
        "є якщо вже тільки коли щоб може дуже їх вони про бути цей ти й",
        "bg": "и в не на че с по това как той тя но към у от за така все вие ние аз го ѝ или би беше ми е ако вече "
        "само когато да може много ги те до бъде този ти са се ще като",
        "ar": "في من على إلى أن هذا هذه التي الذي كان لا ما عن مع هو هي ذلك أو قد كل بعد بين لم إن كما حتى ثم عند لكن "
        "أنا أنت نحن هم ليس هناك يمكن و يا",
        "fa": "و در به از که این است را با آن برای یک می تا بر هم من ما او شما نیست بود شد شده هر یا اما اگر خود کرد "
        "دارد چه هستند هستم باید های بی",
        "ur": "کے کی میں ہے اور سے کو ہیں کا یہ نے پر نہیں اس وہ ایک کہ تھا تھی بھی ہو تو جو کر گیا آپ ہم مجھے لیے ان "
        "ہوں کیا یا اگر لیکن",
        "hi": "है हैं और का की के में से को नहीं यह वह भी ने पर था थी थे एक हो इस जो तो कि कर मैं आप हम लिए या साथ कुछ "
        "अपने गया उस ये मेरे हूँ जब क्या",
        "mr": "आहे आहेत आणि हे ही हा तो ती ते या नाही होते होता होती मी तू आम्ही तुम्ही साठी करून एक पण किंवा असे जे की "
        "त्या मध्ये आपण काय केले तर सर्व म्हणून करा नका",
        "ne": "छ छन् र हो यो त्यो मा को का लागि पनि तर भने एक थियो हुन् हुन्छ गर्न गर्नुहोस् गर्ने म तपाईं हामी छैन "
        "भएको गरेको वा सबै कुनै तथा छु दिन कि अनि",
    }.items()
}


def language_of(text: str) -> str | None:
    """The ISO 639-1 code; None for a text without letters of a script that is known.

    The script that most letters are in decides first, then the language of it with the most frequent words. Without any
    (a few names, a list) it is the first of the script: English, Russian, Arabic or Hindi.
    """
    scripts = Counter(script for letter in text if letter.isalpha() if (script := _script(letter)) in _SCRIPTS)
    if not scripts:
        return None
    candidates = _SCRIPTS[scripts.most_common(1)[0][0]]
    if len(candidates) == 1:
        return candidates[0]
    words = _words(text)
    return max(candidates, key=lambda code: sum(word in _FREQUENT_WORDS[code] for word in words))


def _words(text: str) -> list[str]:
    r"""Runs of letters and their marks in lowercase: `\w+` would break the words of Devanagari at their vowel signs."""
    return "".join(sign if unicodedata.category(sign)[0] in "LM" else " " for sign in text.lower()).split()


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
