r"""Units behind a number, which count for nothing: ``5 cm^2``, ``9.8\mathrm{~m}/\mathrm{s}^{2}``, ``12\text{平方厘米}``.

Real units are listed, with SI prefixes and compounds. Of other words only counted things go (``72 clips``: a plural,
or a listed word); words that change the value (``5 million``, ``3 halves``, ``remainder 2``, ``2 lambda``) never do.
A single letter is a unit only when it is set upright or stands in a compound: ``6m`` is six times m, ``6 m/s`` a speed.
"""

from __future__ import annotations

import re


def _words(text: str) -> list[str]:
    return text.split()


_SI = _words("m g s A K N J W V C F T H L l Pa Hz mol cd lm lx Wb S eV Bq Gy Sv kat bar cal B b ohm Ohm")
_PREFIXES = ("", "k", "K", "M", "G", "T", "P", "m", "c", "d", "h", "n", "p", "f", "u")
_UPRIGHT = {prefix + unit for prefix in _PREFIXES for unit in _SI}  # set upright or in a compound
_PLAIN = {  # in plain letters too: each is hardly ever a product of variables
    "cm", "mm", "km", "dm", "nm", "kg", "mg", "kJ", "MJ", "kW", "MW", "GW", "mW", "kHz", "MHz", "GHz", "Hz", "kPa", "MPa", "hPa",
    "Pa", "mV", "kV", "mA", "kN", "mol", "mmol", "eV", "kcal", "cal", "ohm", "ohms", "ms", "lm", "Wb", "bar", "kB", "kb", "cd", "hr", "hrs", "min", "mins", "sec", "secs", "in", "ft", "yd", "yds", "mi", "mph", "kph", "kmph", "lb",
    "lbs", "oz", "gal", "qt", "pt", "pts", "tsp", "tbsp", "psi", "atm", "mmHg", "torr", "erg", "dyn", "dyne", "kWh", "Wh",
    "MWh", "Ah", "mAh", "rpm", "rad", "sr", "deg", "rev", "ha", "AU", "pc", "kpc", "Mpc", "ly", "amu", "Da", "kDa", "dB", "KB",
    "GB", "MB", "TB", "MeV", "GeV", "keV", "meV", "TeV", "ppm", "ppb", "sq", "cu", "yr", "yrs", "wk", "mo", "hp", "knots",
    "USD", "EUR", "GBP", "CNY", "RMB", "INR", "JPY", "Kg", "KG", "kgf", "um", "fps", "cc", "ml",
    "mL", "cL", "dL", "Rs", "AUD", "CAD", "BTU", "cps", "bps", "kbps", "Mbps", "arcsec", "arcmin", "esu", "gauss", "molar",
}  # fmt: skip
_UPRIGHT |= _PLAIN | {"h", "t", "u", "D"}
LETTERS = "msgNJWVAKCFTHLh"  # behind a space they may be a unit or a variable: `reading` tries both
_WORDS = set(
    _words(
        """unit meter metre foot feet inch yard mile kilometer kilometre centimeter centimetre millimeter millimetre decimeter
    decimetre micrometer nanometer gram gramme kilogram milligram ton tonne pound ounce liter litre milliliter millilitre
    gallon quart pint cup second minute hour day week month year decade century degree radian newton joule watt volt ampere
    amp ohm farad henry tesla weber hertz kilohertz megahertz pascal kelvin celsius fahrenheit mole candela lumen lux calorie
    kilocalorie byte bit kilobyte megabyte gigabyte dollar cent euro pence penny rupee yen yuan franc peso people person men
    women children child man woman way time point mark vote student digit cube square square-inch cubic sq acre hectare knot
    fish sheep deer dice mice geese teeth oxen cattle staff data species series steradian electronvolt parsec lightyear
    light-year erg dyne gauss dynes atmosphere horsepower step move turn game coin card piece item edge face vertex
    vertices side diagonal triangle matrices indices"""
    )
)
# Adjectives and little words that may stand in a counted phrase but are no unit alone.
_LITTLE = set(_words("per of a an the in each every total different distinct possible other such"))
_VALUE = set(
    _words(
        """hundred hundreds thousand thousands lakh lakhs crore crores million millions billion billions trillion trillions
    dozen dozens gross score scores half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths
    seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths percent
    percentage percents permille remainder remainders rem mod modulo base choose plus minus divided
    over by factorial factorials squared cubed root power powers pi tau lambda alpha beta gamma delta epsilon
    zeta eta theta iota kappa mu nu xi rho sigma upsilon phi chi psi omega sin cos tan cot log ln exp sqrt infinity
    infinite negative positive imaginary least most more less fewer greater than above below at or not no and to from
    between but only except undefined north south east west am pm bc ad bce ce even odd prime is are if when where
    for with any some all equals equal double triple pairs pair left right basis true false
    radius ago i e x y z"""
    )
)
_PLURAL = re.compile(r"[a-z]{3,}s|[a-z]+-[a-z]{2,}s")
_CHINESE_UNITS = _words(
    "平方厘米 平方米 平方分米 平方千米 平方公里 平方毫米 立方厘米 立方米 立方分米 平方 立方 厘米 毫米 分米 千米 公里 微米 纳米 米 "
    "公顷 亩 千克 公斤 毫克 克 吨 斤 毫升 升 秒 分钟 小时 时 天 日 周 个月 月 年 岁 度 摄氏度 元 角 分 美元 美分 块 人 个 只 条 张 "
    "本 件 种 次 名 位 棵 辆 台 支 枝 朵 头 匹 间 层 排 行 列 组 对 双 颗 粒 根 片 套 道 题 页 倍 米/秒 千米/时 千米/小时 元/千克 牛 焦耳 瓦"
)
_CHINESE = re.compile(
    rf"(?<=[\d)}}%]) ?(?:\\text\{{ ?)?(?:{'|'.join(sorted(_CHINESE_UNITS, key=len, reverse=True))}) ?\}}?(?=[.,;]?$|[,;)])"
)

TEXT = r"\\(?:text(?:rm|up|normal|sf|tt|bf|it)?|mathrm|mathsf|mbox|hbox|unit|si|rm|operatorname)(?![a-z])"
_POWER = r"(?: ?\^ ?(?:\{ ?[-+]?\d ?\}|-?\d))?"
_SYMBOL = r"\\(?:Omega|mu|deg|degree|AA|aa)(?![A-Za-z])"
_SET = rf"{TEXT} ?\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}{_POWER}"
_OVER = (
    rf"\\frac ?\{{ ?(?:{_SET}|[A-Za-z]+) ?\}} ?\{{ ?(?:{_SET}|[A-Za-z]+{_POWER}) ?\}}"  # \frac{\text{m}}{\text{s}^2}
)
_ATOM = (
    rf"(?:{_OVER}|{TEXT} ?\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}|{_SYMBOL}|[A-Za-z]+(?:-[A-Za-z]+)*(?![A-Za-z])\.?){_POWER}"
)
_JOIN = r"(?: ?(?:\\cdot|\\times|\\,|/|\*) ?| )?"
_TAIL = re.compile(
    rf"(?:(?<=[\d)}}\]!])|(?<=\\pi)|(?<=\\pi )) ?(?:/ ?)?({_ATOM}(?:{_JOIN}{_ATOM})*) ?(?=\.?$|[,;)]|\\\}})"
)
_WRAPPED = re.compile(rf"{TEXT} ?\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}")
_WORD = re.compile(r"(?:\\mu ?)?(?:[A-Za-z]?\\Omega|(?<!\\)(?<![A-Za-z])[A-Za-z]+(?:-[A-Za-z]+)*|(?<=\\mu)[A-Za-z]+)")
_ORDINAL = re.compile(
    rf"(?<=\d) ?(?:\^ ?\{{? ?)?(?:{TEXT} ?\{{ ?(?:th|st|nd|rd) ?\}}|(?<![A-Za-z])(?:th|st|nd|rd)(?![A-Za-z])) ?\}}?(?=$|[,;.])"
)


def _singular(word: str) -> str:
    for ending, instead in (("ies", "y"), ("ches", "ch"), ("xes", "x"), ("s", "")):
        if word.endswith(ending):
            return word.removesuffix(ending) + instead
    return word


def _is_symbol(word: str, symbols: set[str]) -> bool:
    return re.sub(r"\\mu ?", "u", word).replace(r"\Omega", "ohm").strip() in symbols


def _listed(word: str) -> bool:
    return word in _WORDS or _singular(word) in _WORDS


def _is_unit(phrase: str) -> bool:
    """Whether a phrase behind a number says only what is counted or measured."""
    upright = bool(_WRAPPED.search(phrase)) or "\\" in phrase
    phrase = re.sub(r"\\frac ?\{(.*)\} ?\{(.*)\}$", r"\1 / \2", phrase)
    bare = re.sub(r"\^ ?(?:\{ ?[-+]?\d ?\}|-?\d)", " ", _WRAPPED.sub(r" \1 ", phrase))
    if re.search(r"[\d=<>+{}]|(?i:\b[ap]\. ?m\b)", bare):
        return False
    words = [found[0].strip() for found in _WORD.finditer(bare)]
    compound = len(words) > 1 and bool(re.search(r"/|\\cdot|\*|\^", phrase))
    symbols = _UPRIGHT if upright or compound else _PLAIN
    if not words or any(word.lower() in _VALUE for word in words):
        return False
    known = [_is_symbol(word, symbols) or _listed(word.lower()) for word in words]
    if all(known):
        return True
    lower = [word.lower() for word in words]
    counted = [bool(_PLURAL.fullmatch(word)) and not word.endswith("ss") for word in lower]
    told = [len(word) >= 3 or word in _LITTLE or ok for word, ok in zip(lower, known, strict=True)]
    return all(told) and (any(known) or any(counted))


def without_units(text: str) -> str:
    """The text without the unit or counted thing behind each number of it; ordinals (``5th``) too."""
    text = _ORDINAL.sub("", _CHINESE.sub("", text))
    return _TAIL.sub(lambda match: "" if _is_unit(match[1]) else match[0], text)
