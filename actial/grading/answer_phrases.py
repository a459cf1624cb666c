"""Phrases around a mentioned option: what states it, rejects it, or only refers to it.

Every repetition in these patterns is bounded, so matching takes time linear in the text.
"""

from __future__ import annotations

import re

# Signs that make a letter part of a word: Latin, Greek and Cyrillic letters and digits.
_WORD = r"A-Za-z0-9_\u00c0-\u04ff"
_END = rf"(?![{_WORD}]|['-]\w)"

# ---------------------------------------------------------------- what announces an answer

_ADVERB = (
    r"definitely|clearly|certainly|obviously|probably|likely|most|therefore|thus|hence|simply|just"
    r"|indeed"
    r"|surely|still|now|then|best|actually|really|either|both|maybe|perhaps|possibly|option|choice"
    r"|letter"
    r"|answer|the|as follows|given by|that of|选项|選項"
)
_COPULA = (
    r"is|was|be|are|equals|(?:must|should|would) therefore be"
    r"|would be|should be|must be|will be|has to be|might be|may be|could be"
    r"|seems"
    r"|seems to be|appears to be|becomes|remains|est|es|ist|è|é|é a|这是|为|為|是|應為|应为|应是"
    r"|應是|は|が|은|는"
    r"|:|=|->|=>|-|\u2010|\u2013|\u2014|\u2192"
)
_NOT = (
    r"not|n't|never|neither|nor|no longer|anything but|cannot be|can't be|不是|不为|並非|并非"
    r"|nicht|pas|no es"
)
_QUOTES = r"[\s\"'`*_#>]"
_NOUN = (
    r"answers?|options?|choices?|solution|selection|verdict|decision|final"
    r"|antwort|lösung|r[ée]ponse|respuesta|resposta"
    r"|risposta"
    r"|ответ|答案|回答|答え|解答|정답|답"
)
_VERB = (
    r"(?:choose|chose|pick|picked|select|selected|choosing|picking|selecting|go for|go with"
    r"|going with"
    r"|(?:chang|switch)(?:e|ed|ing)(?: (?:my|the) (?:answer|choice))?"
    r"(?: from \W{0,3}[A-Z]\W{0,3})? to"
    r"|going for|opt for|settle on|settle for|stick with|vote for|guess|lean(?:ing)?(?: towards?)?"
    r"|leaves us with"
    r"|leaving us with|are left with|选择|選擇"
    r"|选(?!项)|選(?!項))"
)


def _spaced(pattern: str) -> str:
    """Return an alternation for a verbose pattern, where a plain space would be ignored."""
    return pattern.replace(" ", r"\s")


STATEMENT = re.compile(
    rf"""
    (?P<cue>\b(?:{_NOUN})|答案|回答|答え|정답|\b{_spaced(_VERB)}|选择|選擇|倾向于?|傾向於?|应该是|應該是
        |选(?!项)|選(?!項))
    (?P<gap>(?:{_QUOTES}{{0,4}}\s?(?:\b(?:{_spaced(_ADVERB)})\b|选项|選項
    |(?:\b(?:{_spaced(_COPULA)}))(?![A-Za-z])|[:=\u2013\u2014\u2192-]>?
        |为|為|是|は|が|이|가|은|는)){{0,6}})
    (?P<not>{_QUOTES}{{0,4}}(?:{_spaced(_NOT)})\b)?
    (?P<open>[\s"'`*_#>(\[{{<]{{0,6}})
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "Hence A." at the end of an answer
CONCLUDED = re.compile(
    r"\b(?:hence|therefore|thus|so|finally|in conclusion"
    r"|(?:that|this|which) (?:only )?leaves(?: only)?)"
    r"\b[\s,:*_]{1,4}"
    r"(?:(?:it is|it's|it must be) )?(?:(?:option|choice) )?"
    r"[\"'`*(\[]{0,3}(?-i:(?P<letter>[A-Z]))[\"'`*)\]]{0,3}[.!]?\s?\Z",
    re.IGNORECASE,
)
# "The options are A: .." lists the options
LISTING = re.compile(
    r"(?:options|choices|(?:each|every|all) (?:of the )?(?:option|choice))\Z", re.IGNORECASE
)
# "the answer would be B if the camera had moved"
CONDITIONED = re.compile(
    r"""[\])}"'`*_]{0,4}(?:\s(?:would|could|might|may)\sbe\s(?:the\s|my\s)?
    (?:correct|right|true|best|answer|choice)(?:\s(?:answer|choice|option))?)?
    \s(?:only\s)?(?:if|unless|provided|assuming|had)\b(?!\si\b)""",
    re.IGNORECASE | re.VERBOSE,
)
OPTION_LETTER = re.compile(r"(?<!\w)[a-h](?= )")  # a letter in an option's text
NEEDS_GAP = re.compile(
    r"(?:options?|choices?|selection|solution|verdict|decision|final|answers|回答)\Z",
    re.IGNORECASE,
)
LETTER = re.compile(rf"(?P<letter>[A-Za-z]){_END}")

# "B is correct", "B is the best answer", "B 正确"
PREDICATE = re.compile(
    r"""[\])}"'`*_]{0,4}\s?(?:选项|選項|项|項)?(?:\([^()\n]{0,80}\)\s?)?
    (?:(?:is|was|seems|looks|appears|must|should|would|will|has)(?:\sto)?(?:\sbe)?\s
       (?:indeed\s|clearly\s|definitely\s|therefore\s|thus\s|probably\s|likely\s|actually\s)?
       (?:the\s|my\s|our\s)?
       (?:(?:only\s)?(?:correct|right|best|final|most\slikely|more\slikely|most\splausible
       |more\splausible
          |true|proper|valid
          |better\s(?:choice|option|answer|match|fit))
          (?!\s(?:of|hand|side|in\sfront|behind|above|below))|answer\b|choice\b
          |one\b(?!\s(?:of|more|\w{0,20}\s?(?:possib|option|candidate))))
     |\s?(?<!\n)[\u2705\u2713\u2714]
     |(?:是)?(?:正确|正確|对的|對的))""",
    re.IGNORECASE | re.VERBOSE,
)

# ---------------------------------------------------------------- what rejects a letter

REJECTED_BEFORE = re.compile(
    r"\b(?:not|never|no|none|nothing|disagree\w{0,3}|neither|nor|without|except|excepting"
    r"|excluding|exclude[sd]?"
    r"|eliminat\w{0,4}"
    r"|discard\w{0,3}|dismiss\w{0,3}|reject\w{0,3}|rul(?:es?|ed|ing) out|rather than|instead of"
    r"|other than"
    r"|apart from|anything but|everything but|all but|unlike|cannot|avoid|against|incorrect|wrong"
    r"|false|invalid|untrue"
    r"|unlikely|least|worst|impossible|unable|doubts?|deny|denies"
    r"|nicht|weder|ni|kein\w?|falsch|pas|jamais"
    r"|incorrecte|contradict(?:s|ed|ing)?|disprov\w{1,3}|refut\w{1,4}|opposite (?:of|to)"
    r"|distractors?|decoys?|little (?:evidence|support|reason)"
    r"|incorrecta|nunca|не|нет|hardly|scarcely|nobody|no one|by no means|far from)\b"
    r"|n't\b|不(?:是|为|為|選|选|对|對|能|可|该|該|应|應|会|會|要)|并非|並非|排除|错误|錯誤|非(?!常)"
    r"|没有|沒有|无法|無法|别选|別選|很难|难以|未必|绝非|除了"
    r"|不(?:认为|認為|觉得|同意|支持|建议)|\bn(?:ão|ao|on)\b|\binsufficient\b|\black(?:s|ing)?\b|아니",
    re.IGNORECASE,
)
REJECTED_AFTER = re.compile(
    r"""[\])}"'`*_]{0,4}(?:选项|選項|项|項)?
    (?:(?:,\s?|\s)?(?:but\s)?(?:which\s|that\s|it\s|this\s|also\s|both\s|all\s)?
       (?:is|was|are|were|be|can|could|does|do|did|would|will|should|must|seems?|looks?|appears?
       |has|have
         |might|may|gets?|got)\s?
       (?:to\sbe\s|be\s|been\s|also\s|all\s|both\s|therefore\s|thus\s|clearly\s|definitely\s
       |obviously\s
          |completely\s|simply\s|just\s|probably\s|likely\s|safely\s|easily\s|common\s|the\s
          |an?\s)*
       (?:not\b|n't\b|never\b|no\b|incorrect|wrong|false|impossible|invalid|unlikely|implausible
       |untrue|unsupported|inaccurate|refuted|dispro\w*|untenable|(?:the\s)?opposite\sof
          |inconsistent|out\b|ruled\sout|eliminated|excluded|discarded|dismissed|rejected
          |less\slikely
          |least\slikely|avoided|hardly|scarcely|far\sfrom|contradict\w*|(?:common\s|likely\s
          |plausible\s)?distractor|worse|worst|mistake|mistaken|error|trap\b
          |neither)
     |(?:,\s?|\s)?(?:which\s|that\s|it\s)?(?:cannot|can't|isn't|wasn't|aren't|doesn't|didn't
     |couldn't|wouldn't
          |won't|shouldn't|fails?|contradict\w*|makes?\sno\ssense)\b
     |\s?\?\s?(?:no|nope|wrong|not|never|incorrect|impossible)\b|~~|,\sno(?=[.!]|\Z)
     |(?:\s|\s?[:\u2013\u2014-]\s?|\s?\()(?:incorrect|fails?\b|wrong|false|impossible
     |not\b(?!\s[\[("'`*]{0,3}[A-Z]\b)|ruled\sout|eliminated
          |no\b(?!\s?(?:movement|motion|change|object)))
     |\s?:\s?(?:refuted|rejected|excluded|contradict\w*|impossible|unlikely)
     |\sas\s(?:incorrect|wrong|false|impossible)
     |\s?[\u274c\u2717\u2718]|[はがも]?(?:間違|誤り|違い|違う|正しくな|正しくあ|不正解)
     |[이가는은]?\s?(?:틀[렸리린]|오답|잘못)
     |\s(?:es|est|è|é|ist)\s(?:incorrect|fal(?:s[oaeh]|sc)|fauss|erron|erreur|sbagliat|errat|errad
     |inkorrekt|unmögl|imposs)\w*
     |\sout(?=[.,;!\s]|\Z)
     |\s?\(?(?:(?:也|都|均|又|还|并|就|是|被|可以|可|肯定|显然|明显|绝对|完全|应该|同样){0,4}
       (?:不(?:太?对|太?對|正确|正確|符|成立|可能|合理|满足|一致|行)|错|錯|有误|有誤|排除|矛盾
       |干扰|干擾)|是?不对|是?不對|不正确|不正確|错|錯|是错|不是|不可能|ではな[いく]|ではありません
     |じゃない)|\s?[이가는은도]?\s?(?:정답[이은도]\s?)?아[니닌닙]|\sfalsch|\sist\snicht|\sn'est\spas
     |\sno\ses)""",
    re.IGNORECASE | re.VERBOSE,
)
REJECTING_LABEL = re.compile(
    r"\b(?:wrong|incorrect|false|invalid|eliminated|rejected|excluded|not(?:\s(?:the\s)?(?:answer"
    r"|correct|right|it))?)"
    r"(?:\s(?:answer|option|choice)s?)?[\"']?\s?:\s?[\"'`*(\[]{0,3}(?:(?:option|choice|the)\s)?"
    r"[\"'`*(\[]{0,3}\Z|(?:[\u274c\u2717\u2718] ?"
    r"|\b(?:neither|none) of (?:these|them|the \w{1,12})\s?:\s?)"
    r"(?:(?:option|choice|the)\s)?[\"'`*(\[]{0,3}\Z|~~[*_(\[]{0,3}\Z",
    re.IGNORECASE,
)
HEDGED_AFTER = re.compile(
    r"""[\])}"'`*_]{0,4}\s(?:(?:is|are|was|seems?|looks?)\s
       (?:also\s|both\s|equally\s|still\s|all\s|just\sas\s)*
       (?:possible|plausible|conceivable|acceptable|likely\b)
     |(?:could|might|may|would)\s(?:both\s|also\s|all\s|still\s)*(?:be\s(?:right|correct|possible
     |acceptable|true)|fit|work)
     |(?:seemed|looked|appeared|sounded|was\smy)\b
     |would\s(?:only|require|need|predict|suggest|hold)\b|only\s(?:holds|works|fits)\sif\b
     |is\swhat\s(?:most|many|some|one|people|you)\b
     |(?:is|was|seems|looks)\s(?:also\s|very\s|quite\s|a\s)*(?:tempting|close\b)
     |(?:says|states|claims|reads|means|implies|would\smean|would\simply)\b|or\snot\b
     |if\b(?!\si\shad)|otherwise\b|unless\b|both\s(?:fit|work|seem|are))""",
    re.IGNORECASE | re.VERBOSE,
)
HEDGED_BEFORE = re.compile(
    r"\b(?:could|might|may|can)\s(?:also\s|well\s|just\s|even\s|then\s)?be\s"
    r"(?:(?:option|choice|the)\s)?"
    r"[\"'`*(\[]{0,3}\Z",
    re.IGNORECASE,
)
COMPARED = re.compile(
    r"""[\])}"'`*_.]{0,4} (?:with|to|against) (?:(?:option|choice|the) )?[\["'`*(]{0,3}\Z"""
)
COMPARISON = re.compile(r"\b(?:compar\w{1,4}|between|torn|hesitat\w{1,4})\b", re.IGNORECASE)
PLURAL = re.compile(
    r"(?:contradict|fail|aren't|don't"
    r"|are|were|do|have|all|both|can|could|would|must|should|might|may)\b",
    re.IGNORECASE,
)
IDIOM = re.compile(
    r"\b(?:no doubt|without (?:a |any )?doubt|beyond (?:a |any )?doubt|no question|without question"
    r"|not only|not sure|not certain|not entirely sure|not 100 ?% sure|no other than"
    r"|none other than"
    r"|no wonder|if i(?:'m| am) not (?:wrong|mistaken)|unless i(?:'m| am) mistaken|at least"
    r"|not just"
    r"|nothing but|no need|notice|note)\b",
    re.IGNORECASE,
)

# ---------------------------------------------------------------- what only refers to a letter

ASIDE_BEFORE = re.compile(
    r"\b(?:images?|photos?|pictures?|views?|frames?|figures?|fig\.|panels?|points?|objects?"
    r"|cameras?|scenes?"
    r"|positions?|locations?|regions?|box|boxes|rooms?|markers?|labels?|labell?ed|groups?|steps?"
    r"|parts?"
    r"|person|lines?|sides?|plan|vitamin|grade|class|category|scenario|case|section|between"
    r"|compar\w{1,4}"
    r"|building|appendix|hepatitis|gates?|doors?|walls?|corners?|zones?|areas?|spots?|targets?"
    r"|robots?|cubes?|balls?|players?|cars?|tables?|types?|terminal|rows?|columns?|usb|platform"
    r"|viewpoints?|perspectives?|angles?|users?|poses?|directions?|paths?|routes?|arrows?"
    r"|places?|windows?|shelf|floors?|walls?|videos?|clips?|shots?|models?|examples?"
    r"|behind|above|below|under|beneath|beside|facing"
    r"|(?<!points )(?<!pointing )towards?|before|after|beats"
    r"|e\.g\.|such as|for example|so (?:does|do|is|are|could|might|would)"
    r"|than|over|from|(?<!corresponds )(?<!corresponding )(?<!points )(?<!pointing )to"
    r"|(?<!consistent )with|like|in|at|of|near|and in|whereas|than in)\s"
    r"(?:(?:option|choice|letter|the)\s){0,2}[\"'`*(\[]{0,3}\Z"
    r"|\b(?:images?|photos?|pictures?|views?|frames?|figures?|grade|rating)[\"']{0,1}\s?:\s?"
    r"[\"'(\[]{0,2}\Z|(?:图|圖|图片|图像|照片|画面|视角|位置|相机|镜头|物体|房间|场景|步骤)\s?\Z",
    re.IGNORECASE,
)
CONDITION = re.compile(
    r"\b(?:if|whether|ob|suppose|supposing|assume|assuming|unless|had|were it|imagine|might think"
    r"|may think"
    r"|could think|(?:one|you|some|some(?:one|body)|people|the (?:user|reader)) (?:could|may)"
    r"|the (?:user|reader) (?:might|would|probably)|previously|first instinct"
    r"|one might|some might|you might|tempt\w{0,3}|at first|initially|first thought"
    r"|thought"
    r"|consider\w{0,3}|let(?:'s| us| me) (?:check|test|examine|evaluate|look at|analy[sz]e|verify)"
    r"|seemed|looked like|almost|nearly|was (?:going|about) to|mistake"
    r"|i (?:had )?(?:first |initially |originally |previously )?said"
    r"|naive\w{0,2}|careless\w{0,2}|(?:some|any|every)one who|those who|people who"
    r"|(?:many|most|some|others|people) (?:people |readers )?(?:would|will|might))\b"
    r"|如果|假如|是否",
    re.IGNORECASE,
)
CLAUSE_START = re.compile(
    r"[.,;:!?\n。、;]|[-\u2013\u2014](?=\s)"
    r"|\b(?:(?<!anything )(?<!everything )(?<!nothing )(?<!all )but|so|therefore|thus|hence"
    r"|because|since|however|although"
    r"|in favou?r of|leaves(?= (?:us with |only )?(?:option )?[\"'`*(\[]{0,3}\Z)"
    r"|while|whereas|then|though|yet|leaving|which leaves|only|(?<!no )means?|making"
    r"|instead(?! of)|sondern|mais|sino|因为|所以"
    r"|而是|而|ではなく)\b|因为|所以|而是|因此|故|아니라|아니고|ではなく",
    re.IGNORECASE,
)
CONTRAST = re.compile(r"\b(?:but|however|so|while|whereas|yet|though)\b", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?;\n。](?=\s|\Z|[^\w.])")
QUESTION = re.compile(r"[^.!?\n]{0,40}\?")
QUESTION_START = re.compile(
    r"(?:^|[.!?\n]\s?|[,;]\s)(?:so\s|and\s|or\s|but\s|then\s)?(?:is|isn't|was|are|could|would"
    r"|should|can|might"
    r"|may|does|do|did|which|what|why|how|shall)\b[^.!?\n]*\Z",
    re.IGNORECASE,
)
JOINT = re.compile(
    r"""[\])}"'`*_.]{0,4}\s?(?:选项|選項|项|項)?(?:\sfirst)?
        (?:\s?(?:,|/|&|\+|、|\||-|~|\u2013|\u2014|\.{2,3}|\u2026)\s?\(?
          (?:(?:or|and|nor|then)\s|(?:alternatively|maybe|perhaps|possibly)\s)?
        |\s?(?:还是|還是|或者|或)(?:选|選)|,\s?(?:但是?)?(?:也有?)可能是?
        |\svs\.\s|\s(?:and\s)?then\s|(?<=\))\s?(?=\()|\.{2,3}\s?or\s(?:is|was|could|might)\sit\s
        |\s?;\s?(?:or|maybe|perhaps|possibly|alternatively)\s
        |\s\(?(?:or|and|nor|and/or|vs|versus|as\swell\sas|alternatively|oder|und|ou|et|o|y|или
        |и)\b\s?
        |\s?(?:或者|或|和|与|與|以及|还是|還是|または|또는|と|や|도|와|과)\s?)
    [\["'`*({<]{0,3}(?:(?:maybe|possibly|perhaps|also|even|either|else|option|choice|answer
        |the|rather|both|alternatively|or|and|it\s(?:might|may|could)\sbe)\s){0,3}
    (?:(?:选项|選項|选|選|答案|選択肢)\s?)?
    [\["'`*({<]{0,3}\Z""",
    re.IGNORECASE | re.VERBOSE,
)
LIST_BREAK = re.compile(
    r"""[\])}"'`*_]{0,4}\s?[;\s]\s?(?:(?:option|choice|the)\s)?[\["'`*({<]{0,3}\Z""",
    re.IGNORECASE,
)
LIST_END = re.compile(r"""[\])}"'`*_]{0,4}\s?(?:[.,;!?\n]|\Z)""")
CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|rather|sorry|on second thought|hmm|no|oops|instead"
    r"|reconsider\w*"
    r"|edit|misread|misjudged|apolog\w{0,4}|let me (?:re|double)|scratch that|i mean|better)\b",
    re.IGNORECASE,
)
CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|so|final|finally|conclu\w+|overall|in summary|to sum up"
    r"|consequently"
    r"|then|after all|correction|wait|actually|rather|sorry|on second thought|instead|but|however"
    r"|revised?|now|hmm{0,5}|oops)\b|\bno[,.!]|因此|所以|故|最终|最後|最后|不对|不對|等等|但",
    re.IGNORECASE,
)
# Words after an upper-case A that make it a letter and not the article.
_AFTER_A = (
    r"because|since|as|and|or|nor|but|is|was|isn't|wasn't|seems|looks|appears|must|would|should"
    r"|could|can"
    r"|cannot|can't|has|does|doesn't|will|won't|might|may|matches|fits|shows|describes|says|states"
    r"|if|not|over"
    r"|instead|rather|with high|for the|due|given|where|which|then|therefore|so|here|makes"
    r"|contradicts|fails"
    r"|on the grounds|oder|und|ou|et|it|vs|versus|both|remains?|fits?|match|seem|look|appear|are"
    r"|were|against|too|alone|only|first(?=[,.;])|to be|o|y|e|u|или|и|oppure"
)
ARTICLE = re.compile(rf"(?:[^\S\n](?!(?:{_AFTER_A})\b)[a-z\d])")
# What makes a letter of "A" and "I" whatever follows: "option A", "B or A".
NAMED_BEFORE = re.compile(
    r"(?:(?i:\b(?:option|choice|letter)\s)"
    r"|(?:[B-Z]|[\"'`*(\[]A)[\"'`*)\]]{0,3}\s?(?:,|/|&|\b(?:or|and|nor|vs\.?"
    r"|versus)\b|或|和)\s?"
    r"(?:(?:perhaps|maybe|possibly)\s)?)[\"'`*(\[]{0,3}\Z"
)
AFTER_I = re.compile(
    r"[\"'`*)\]]{0,3}(?:\Z|\n|[.;:!?]|[)\]\"'`*]\s?|\s\(|\s(?:is|are)\b"
    r"|,\s(?:maybe|perhaps|possibly|it)\b"
    r"|\s(?:c|w)ould (?:both |all )?be (?:right|correct|true|possible)"
    r"|\s(?:might|may) (?:both |all )?be (?:right|correct|true|possible)"
    r"|,?\s\(?(?:or|nor|and|as well as|versus|vs|but|both|oder|und|ou|et|o|y)\b|\s?[/&]"
    r"|,?\s?(?:and\s)?"
    r"(?:[Oo]ption\s|[Cc]hoice\s)?[\"'`*(\[]{0,3}[A-Z](?![A-Za-z])|或|和|、|不|错"
    r"|\s?(?:또는|または))"
)
MENTION = re.compile(
    rf"(?<![{_WORD}\u00b0.-])(?!A\.I\.)(?<!\w')(?<!\d[-./])"
    rf"(?:(?P<bracket>[(\[{{]\s?)(?P<inner>[A-Za-z])\s?[)\]}}]|(?P<letter>[A-Z]){_END}"
    rf"|(?P<lower>[a-z]){_END})"
)
NAMED_LOWER = re.compile(r"\b(?:option|choice|letter)\s[\"'`*(\[]{0,3}\Z", re.IGNORECASE)
COPULA = re.compile(
    rf"(?:\b(?:{_COPULA})(?![A-Za-z])|[:=\u2013\u2014\u2192-]|为|為|是|は)", re.IGNORECASE
)
VERB = re.compile(_VERB, re.IGNORECASE)
BETWEEN_LETTER_AND_TEXT = re.compile(
    r"""[\])}"'`*_]{0,3} ?(?P<mark>[.:)\u2013\u2014=(\["'`*-]{0,4}) ?[("'`*]{0,2}\Z"""
)
BETWEEN_TEXT_AND_LETTER = re.compile(r"""["'`*]{0,3} ?[(\[] ?\Z""")
AFTER_LOWER_A = re.compile(
    r"\s?(?:[.,;:!?)\]}\"'`*\n]|\Z)|\s(?:because|since|and|or|not|but)\b", re.IGNORECASE
)
BOLD_END = re.compile(r"[.:)]{0,2}\*\*")
ASKED = re.compile(
    r"[\])}\"'`*_]{0,4}\s?(?:(?:选项|項|项)?(?:でしょうか|ですか|吗|嗎|呢|입니까|인가요|일까요)\s?)?\?"
    r"|[\])}\"'`*_]{0,4}\s?(?:选项|項|项)?(?:吗|嗎)"
)

# ---------------------------------------------------------------- the form of an answer
LATEX_TEXT = re.compile(
    r"\\(?:text(?:bf|rm|it|tt)?|math(?:bf|rm|it)?|mbox|boldsymbol)\s?\{|[{}$]|\\[,;! ]"
)
BOX = re.compile(
    r"\\(?:boxed|fbox)\s?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]{0,80}\}){0,80}\}){0,200})\}"
)
LEADING = re.compile(
    r"[\s*_\"'>#`-]{0,8}(?:\((?P<round>[A-Za-z])\)|\[(?P<square>[A-Za-z])\]"
    r"|(?P<letter>[A-Za-z])(?:\*{0,2}[.):\]](?!\w\.)|\*{0,2}\s?[-\u2013\u2014](?=\s)|\*\*))\*{0,2}"
)
LISTED = re.compile(r"(?:^|[\s;,(\[*])\(?([A-Z])(?:[.):\]]|\s[-\u2013]\s)(?=\s|\w|\*)")
LINE = re.compile(r"[^\n]+")
INTRODUCTION = re.compile(r"(?:option|choice|to the|the)")
ENUMERATION = re.compile(r"(?:[-*+\u2022]|\d{1,2}[.)])\s")
REFUSAL = re.compile(
    r"\b(?:cannot|can't|can not|could not|couldn't|unable to|impossible to|not possible to"
    r"|not able to|difficult to|hard to) (?:be )?(?:determin|tell|say|answer|decid|see(?!n)|view"
    r"|infer|help with|help you|assist|assess|judg|identif"
    r"|conclud|know)|\b(?:don't know|do not know|not sure|unclear|insufficient"
    r"|(?:not enough|need more|more) (?:information|context|details)"
    r"|(?:don't|do not) have (?:enough|sufficient)"
    r"|please (?:provide|upload|share)|no idea|not visible|no image)"
)
UNDERSCORED = re.compile(
    r"(?<!\w)__?(?=\S)([^_\n]{1,40})(?<=\S)__?(?!\w)"
)  # Markdown emphasis
# "No, it is not.": the first clause is the answer
VERDICT = re.compile(r"(?:yes|no|true|false)(?=[.,;:!\n]|\s(?:it|they|that|this|the)\b)")
NOT_APPLICABLE = re.compile(r"\b[nN]/[aA]\b")
# "Q: Which way? / A: right": here "A" is short for "answer"
ASKED_AND_ANSWERED = re.compile(r"(\b(?:Q|Question):[^\n]{1,300}\n)A:")
# "I, object 9": the pronoun or the ninth option
PRONOUN_OR_OPTION = re.compile(r"\bI,")
