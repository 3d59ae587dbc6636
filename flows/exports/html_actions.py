"""Recognize actions by the sentences in which HTML shows them.

Source: Telegram Desktop's export_output_html.cpp, 2018 to 2025, and the names of the actions in its JSON.
"""

from __future__ import annotations

import re

_TITLE = r"«(?P<title>.*)»"
_LASTING = r"(?: \((?P<duration>\d+) seconds\))?"
_CALL = r"(?:voice|video) chat"
#: Sentences and actions, the narrower of two sentences first. Named groups are the members of JSON.
_SENTENCES = {
    f"Channel {_TITLE} created": "create_channel",
    rf"(?P<actor>.+) created group {_TITLE}(?: with members .+)?": "create_group",
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
    r"You allowed this bot to message you when .+": "allow_sending_messages",
    r"You have sent the following documents: .+": "send_passport_values",
    r"(?:You are now within .+ from .+|.+ is now within .+ from .+)": "proximity_reached",
    r"(?P<actor>.+) requested your phone number": "requested_phone_number",
    rf"(?P<actor>.+) invited .+ to the {_CALL}": "invite_to_group_call",
    rf"(?:V(?:oice|ideo) chat|(?P<actor>.+) started {_CALL}){_LASTING}": "group_call",
    rf"(?:V(?:oice|ideo) chat scheduled|(?P<actor>.+) scheduled a {_CALL}) for .+": "group_call_scheduled",
    r"(?:New messages will(?: not)? auto-delete.*"
    r"|(?P<actor>.+) has set messages (?:not )?to auto-delete.*)": "set_messages_ttl",
    r"(?:Channel theme was disabled|(?P<actor>.+) disabled chat theme)": "edit_chat_theme",
    r"(?:Channel theme was changed|(?P<actor>.+) changed chat theme) to (?P<emoticon>.+)": "edit_chat_theme",
    r"You have just successfully transferred data from the «.*» button to the bot": "send_webview_data",
    r"(?P<actor>.+) sent you a gift for (?P<cost>.+): Telegram Premium for (?P<months>\d+) months\.":
        "send_premium_gift",
    r"(?P<actor>.+) suggests to use this photo": "suggest_profile_photo",
    r"(?P<actor>.+) set a new background for this chat": "set_chat_wallpaper",
    r"(?P<actor>.+) set the same background for this chat": "set_same_chat_wallpaper",
    r"(?P<actor>.+) invited .+": "invite_members",
    r"(?P<actor>.+) removed .+": "remove_members",
}  # fmt: skip
_ACTIONS = [(re.compile(pattern, re.DOTALL), action) for pattern, action in _SENTENCES.items()]
_NUMBERS = ("score", "duration", "months")
_TARGETS = {"score_in_game": "game_message_id", "send_payment": "invoice_message_id"}


def action_of(text: str, target: int | None) -> dict[str, object]:
    """Return JSON's members of the service message ``text``, which links to the message ``target``."""
    found: dict[str, object] = {}
    for pattern, action in _ACTIONS:
        if match := pattern.fullmatch(text):
            shown = {key: value for key, value in match.groupdict().items() if value}
            found = {"action": action, **shown, **{k: int(shown[k]) for k in _NUMBERS if k in shown}}
            break
    if target:
        found[_TARGETS.get(str(found.get("action")), "message_id")] = target
    return found
