"""Names and texts of the samples, in many scripts, with both writing directions and emoji."""

from __future__ import annotations

from typing import Any

FIRST_NAMES = [
    "Anna", "Ольга", "محمد", "דנה", "李雷", "さくら", "지민", "Ελένη", "Zoë", "आरव", "Nguyễn", "ก้อง",
    "O'Brien", "🦊",
]  # fmt: skip
LAST_NAMES = [
    "Petrova",
    "Сидоров",
    "",
    "الخطيب",
    "כהן",
    "Müller-Lüdenscheidt",
    "王",
    "da Silva",
    "<b>&amp;",
    "",
]

TOPICS = [
    "Weekend hikes", "Рецепты", "أخبار اليوم", "שכונה", "东京旅行", "Café ☕", "Работа / work",
    "Família 👨‍👩‍👧‍👦",
    "Rust & Python", "«Кавычки» \"quotes\"", "한국어 공부", "ข่าวเด่น", "समाचार",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍a̴̵̜̰͔ͫ͗͢lgo", "\u202eRTL override",
]  # fmt: skip

SENTENCES = [
    "See you at the usual place at seven.",
    "Завтра созвон в десять, не опаздывайте!",
    "مرحبا بالجميع، كيف حالكم اليوم؟",
    "שלום, מתי נפגשים?",
    "明天下午三点开会，请大家准时参加。",
    "今日はとてもいい天気ですね。",
    "오늘 저녁에 시간 있어요?",
    "कल मिलते हैं, शुभ रात्रि।",
    "พรุ่งนี้เจอกันนะ",
    "Mixed: hello мир שלום عالم 世界 🌍",
    "👩🏽‍🚀 and 🏳️‍🌈 and 🇺🇳 are one glyph each, made of many code points",
    "two lines\nand a third\n\nafter a gap",
    'quotes " and \\ backslash, <b>tags</b> & ampersands &amp; entities',
    "trailing space and a tab\tinside ",
    "zero\u200bwidth, no\u00a0break, line\u2028separator",
    "0xDEADBEEF, 1/3, 5 < 7 > 2",
    "ok",
    "Ça coûte 12,50 € — d'accord ?",
    "ﷺ ﷽ 𝕱𝖗𝖆𝖐𝖙𝖚𝖗 𝟘𝟙𝟚",
    "A longer thought, because somebody always writes one: it goes on for a while, changes its "
    "subject twice, returns to where it began, and ends without a conclusion. " * 3,
]

FILE_NAMES = [
    "report.pdf",
    "смета 2024.xlsx",
    "写真.zip",
    "notes (1).txt",
    "IMG_0001.HEIC",
    "a" * 60 + ".bin",
]
EMOJI = ["👍", "❤", "🔥", "😁", "🤔", "👏🏽", "🎉"]

ENTITIES: list[dict[str, Any]] = [
    {"type": "bold", "text": "bold"},
    {"type": "italic", "text": "курсив"},
    {"type": "code", "text": "a < b"},
    {"type": "pre", "text": "def f():\n    return 1", "language": "python"},
    {"type": "underline", "text": "u"},
    {"type": "strikethrough", "text": "gone"},
    {"type": "spoiler", "text": "the end"},
    {"type": "blockquote", "text": "said\nbefore", "collapsed": True},
    {"type": "link", "text": "https://example.org/?a=1&b=2"},
    {"type": "text_link", "text": "here", "href": "https://example.org/"},
    {"type": "mention", "text": "@somebody"},
    {"type": "mention_name", "text": "Анна", "user_id": 5_000_000_001},
    {"type": "hashtag", "text": "#новости"},
    {"type": "cashtag", "text": "$USD"},
    {"type": "bot_command", "text": "/start"},
    {"type": "email", "text": "someone@example.org"},
    {"type": "phone", "text": "+1 202 555 0100"},
    {"type": "bank_card", "text": "4242 4242 4242 4242"},
    {"type": "custom_emoji", "text": "😁", "document_id": "stickers/sticker (2).webp"},
]
