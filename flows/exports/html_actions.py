"""Recognise actions by the sentences in which HTML shows them.

Source: Telegram Desktop's export_output_html.cpp, 2018 to 2026, and the names of the actions in its JSON.
"""

from __future__ import annotations

import re
from functools import cache

_TITLE = r"«(?P<title>.*)»"
_LASTING = r"(?: \((?P<duration>\d+) seconds\))?"
_CALL = r"(?:voice|video) chat"
#: Sentences and actions, the narrower of two sentences first. Named groups are the members of JSON.
_SENTENCES = {
    f"Channel {_TITLE} created": "create_channel",
    rf"(?P<actor>.+) created group {_TITLE}(?: with members (?P<members>.+))?": "create_group",
    rf"(?:Channel title changed|(?P<actor>.+) changed group title) to {_TITLE}": "edit_group_title",
    r"(?:Channel photo changed|(?P<actor>.+) changed group photo)": "edit_group_photo",
    r"(?:Channel photo removed|(?P<actor>.+) removed group photo)": "delete_group_photo",
    r"(?P<actor>.+) joined group by link from (?P<inviter>.+)": "join_group_by_link",
    r"(?P<actor>.+) joined group by request": "join_group_by_request",
    r"(?P<actor>.+) converted this group to a supergroup": "migrate_to_supergroup",
    rf"(?P<actor>.+) converted a basic group to this supergroup {_TITLE}": "migrate_from_group",
    rf"(?P<actor>.+) created topic {_TITLE}": "topic_created",
    r"(?P<actor>.+) changed topic (?:title to «(?P<new_title>.*?)»)?,?"
    r"(?:icon to «(?P<new_icon_emoji_id>\d+)»)?": "topic_edit",
    r"(?P<actor>.+) pinned this message": "pin_message",
    r"(?P<actor>.+) took a screenshot": "take_screenshot",
    r"(?P<actor>.+) joined Telegram": "joined_telegram",
    r"History cleared": "clear_history",
    r"(?P<actor>.+) scored (?P<score>-?\d+) in this game": "score_in_game",
    r"(?:You have successfully transferred .+ for this invoice.*|You were charged .+ via recurring payment)":
        "send_payment",
    r"You allowed this bot to message you when you added it in the attachment menu\.":
        "attach_menu_bot_allowed",
    r"You allowed this bot to message you in his web-app\.": "web_app_bot_allowed",
    r"You allowed this bot to message you when .+": "allow_sending_messages",
    r"You have sent the following documents: .+": "send_passport_values",
    r"(?:You are|(?P<from>.+) is) now within .+? from (?:you|(?P<to>.+))": "proximity_reached",
    r"(?P<actor>.+) requested your phone number": "requested_phone_number",
    rf"(?P<actor>.+) invited .+ to the {_CALL}": "invite_to_group_call",
    rf"(?:V(?:oice|ideo) chat|(?P<actor>.+) started {_CALL}){_LASTING}": "group_call",
    rf"(?:V(?:oice|ideo) chat scheduled|(?P<actor>.+) scheduled a {_CALL}) for .+": "group_call_scheduled",
    r"(?:New messages will(?: not)? auto-delete.*"
    r"|(?P<actor>.+) has set messages (?:not )?to auto-delete.*)": "set_messages_ttl",
    r"(?:Channel theme was disabled|(?P<actor>.+) disabled chat theme)": "edit_chat_theme",
    r"(?:Channel theme was changed|(?P<actor>.+) changed chat theme) to (?P<emoticon>.+)": "edit_chat_theme",
    r"You have just successfully transferred data from the «.*» button to the bot": "send_webview_data",
    r"(?P<actor>.+?) sent you a gift for (?P<cost>.+): Telegram Premium for"
    r" (?:(?P<months>\d+) months?|(?P<days>\d+) days?)\.": "send_premium_gift",
    r"(?P<actor>.+?) sent you a gift for (?P<cost>.+): \S+ Telegram Stars?\.": "send_stars_gift",
    r"(?P<actor>.+?) sent you a gift for (?P<cost>.+): \S+ TON\.": "send_ton_gift",
    r"(?P<actor>.+?) sent you a gift of (?P<stars>\d+) Telegram Stars?\b.*": "send_star_gift",
    r"(?:This is an unclaimed|You won a|You've received a) Telegram Premium for"
    r" (?:(?P<months>\d+) ?months?|(?P<days>\d+) ?days?)?.*": "gift_code_prize",
    r"You won a prize in a giveaway organized by (?P<boost_peer_name>.+)\."
    r"\s+Your prize is (?P<stars>\d+) Telegram Stars?\.": "stars_prize",
    r"(?P<actor>.+?) just started a giveaway of .+": "giveaway_launch",
    r"(?:No winners|Some winners|\d+) of the giveaway .+": "giveaway_results",
    r"(?P<actor>.+) boosted the group (?P<boosts>\d+) times?": "boost_apply",
    r"(?P<peer_name>.+) refunded back .+": "refunded_payment",
    r"(?:You|(?P<actor>.+)) refunded (?P<stars_count>\d+) Stars? for (?P<messages_count>\d+) messages? to .+":
        "paid_messages_refund",
    r"Price per (?:direct )?message changed to (?P<price_stars>\d+)? ?.+|Direct messages were disabled\.":
        "paid_messages_price_change",
    r"(?P<actor>.+?) marked (?:(?P<completed>[\d, and]*?) as done(?: and )?)?"
    r"(?:(?P<incompleted>[\d, and]*?) as not done yet)? in this todo list\.": "todo_completions",
    r"(?P<actor>.+?) added tasks: .*": "todo_append_tasks",
    r'(?P<actor>.+?) added "(?P<option>.*)" to the poll\.': "poll_append_answer",
    r'(?P<actor>.+?) removed "(?P<option>.*)" from the poll\.': "poll_delete_answer",
    r"(?P<actor>.+?) (?:approved|rejected|declined) your suggested post\b.*": "process_suggested_post",
    r"The paid post was shown for .+": "suggested_post_success",
    r"The (?:user refunded the payment, post was deleted|admin deleted the post early, .+)\.":
        "suggested_post_refund",
    r"(?P<actor>.+?) suggests to add a date of birth: .+": "suggest_birthday",
    r"(?P<actor>.+) (?:dis|en)abled sharing in this chat": "no_forwards_toggle",
    r"(?P<actor>.+) requested to enable sharing in this chat": "no_forwards_request",
    r"(?P<actor>.+?) made (?P<new_creator>.+) the new main admin of the group": "change_creator",
    r"(?P<new_creator>.+?) will become the new main admin in \d+ days if (?P<actor>.+) does not return":
        "new_creator_pending",
    r"(?P<actor>.+?) created a bot (?P<bot>.+)": "managed_bot_created",
    r"(?P<actor>.+) joined group via a community": "join_group_via_community",
    r"requested:\s*": "requested_peer",
    r"(?P<actor>.+) suggests to use this photo": "suggest_profile_photo",
    r"(?P<actor>.+) set a new background for this chat": "set_chat_wallpaper",
    r"(?P<actor>.+) set the same background for this chat": "set_same_chat_wallpaper",
    r"(?P<actor>.+) invited (?P<members>.+)": "invite_members",
    r"(?P<actor>.+) removed (?P<members>.+)": "remove_members",
    r"(?P<actor>.+) sent you a gift\.": "",  # of Premium, Stars or TON
}  # fmt: skip
#: Characters of a sentence, at most: that of 200 members who were invited is shorter. The time that a pattern
#: with two names takes grows with the square of the text.
_LONGEST = 10_000
_NAMED = re.compile(r"\(\?P<\w+>")
_DIGITS = re.compile(r"\d+")
_SEVERAL = re.compile(r", | and ")
_NUMBERS = ("score", "duration", "months", "days", "stars", "boosts", "stars_count", "messages_count",
            "price_stars")  # fmt: skip
_TARGETS = {"score_in_game": "game_message_id", "send_payment": "invoice_message_id"}
#: What stands for a name that is not known; JSON has null.
_NAMELESS = {"Deleted", "Deleted Account"}


@cache
def _any_sentence() -> re.Pattern[str]:
    """Compile all patterns late: it takes 10 ms, and most exports are JSON.

    Behind each is an empty group, and in front of that no other: so the last group that matches says which.
    """
    unnamed = (_NAMED.sub("(?:", pattern) for pattern in _SENTENCES)
    return re.compile("|".join(f"(?:{pattern})()" for pattern in unnamed), re.DOTALL)


@cache
def _sentence(number: int) -> tuple[re.Pattern[str], str]:
    pattern, action = list(_SENTENCES.items())[number]
    return re.compile(pattern, re.DOTALL), action


def action_of(text: str, target: int | None) -> dict[str, object]:
    """Return JSON's members of the service message ``text``, which links to the message ``target``."""
    found: dict[str, object] = {}
    match = _any_sentence().fullmatch(text) if len(text) <= _LONGEST else None
    if match and match.lastindex:
        pattern, action = _sentence(match.lastindex - 1)
        members = pattern.fullmatch(text)
        shown = {key: value for key, value in members.groupdict().items() if value} if members else {}
        found = {"action": action or None, **{key: _typed(key, shown[key]) for key in shown}}
        if (names := shown.get("members")) and not _is_one_name(action, names):
            del found["members"]
    if target:
        found[_TARGETS.get(str(found.get("action")), "message_id")] = target
    return found


def _typed(key: str, value: str) -> object:
    """Return a value as JSON has it."""
    if key in ("completed", "incompleted"):
        return [int(number) for number in _DIGITS.findall(value)]
    name = None if value in _NAMELESS else value
    return int(value) if key in _NUMBERS else [name] if key == "members" else name


def _is_one_name(action: str, names: str) -> bool:
    """Return whether ``A, B and C`` can only be one name: names have commas and conjunctions, too."""
    return action == "remove_members" or not _SEVERAL.search(names)
