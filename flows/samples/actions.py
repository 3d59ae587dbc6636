"""Service messages of each type of chat.

``members: "people"`` stands for the names of the chat's members, ``points_at_message`` for the id of an
earlier message, ``without_actor`` for an action that Telegram Desktop writes without an actor.
"""

from __future__ import annotations

from typing import Any

_PHOTO = {
    "photo": "(File not included. Change data exporting settings to download.)",
    "photo_file_size": 176_179,
}

_GROUP: list[dict[str, Any]] = [
    {"action": "create_group", "title": "Все свои", "members": "people"},
    {"action": "edit_group_title", "title": "Ещё ближе «свои»"},
    {"action": "edit_group_photo", **_PHOTO, "width": 640, "height": 640},
    {"action": "delete_group_photo"},
    {"action": "invite_members", "members": "people"},
    {"action": "remove_members", "members": ["Anna", None]},
    {"action": "join_group_by_link", "inviter": None},
    {"action": "join_group_by_request"},
    {"action": "migrate_to_supergroup"},
    {"action": "migrate_from_group", "title": "Все свои"},
    {"action": "pin_message", "points_at_message": True},
    {"action": "group_call", "duration": 1800},
    {"action": "group_call_scheduled", "schedule_date": 1_769_999_999},
    {"action": "invite_to_group_call", "members": "people"},
    {"action": "set_messages_ttl", "period": 86_400},
    {"action": "topic_created", "title": "General"},
    {"action": "topic_edit", "new_title": "Off-topic", "new_icon_emoji_id": 5_368_324_170_671_202_286},
    {"action": "boost_apply", "boosts": 2},
    {"action": "todo_completions", "completed": [1, 2], "incompleted": [3]},
    {"action": "an_action_of_next_year", "novelty": {"level": 9}},
]
_CHANNEL: list[dict[str, Any]] = [
    {"action": "create_channel", "title": "Канал"},
    {"action": "edit_group_title", "title": "Канал 2"},
    {"action": "edit_group_photo", **_PHOTO, "width": 640, "height": 640},
    {"action": "delete_group_photo"},
    {"action": "pin_message", "points_at_message": True},
    {"action": "giveaway_launch", "without_actor": True},
    {"action": "giveaway_results", "winners": 2, "unclaimed": 1, "stars": 1000, "without_actor": True},
    {"action": "edit_chat_theme", "emoticon": "🎨"},
]
_PERSONAL: list[dict[str, Any]] = [
    {"action": "phone_call", "duration_seconds": 45, "discard_reason": "hangup"},
    {"action": "phone_call", "discard_reason": "missed"},
    {"action": "clear_history"},
    {"action": "take_screenshot"},
    {"action": "joined_telegram"},
    {"action": "set_messages_ttl", "period": 604_800},
    {"action": "suggest_profile_photo", **_PHOTO},
    {"action": "set_chat_wallpaper"},
    {"action": "send_premium_gift", "cost": "$9.99", "months": 3},
    {"action": "send_star_gift", "gift_id": 5_170_233_102_089_322_756, "stars": 15, "is_limited": False},
    {"action": "proximity_reached", "from": "Anna", "from_id": "user5", "to": None, "to_id": "user6",
     "distance": 120, "without_actor": True},
    {"information_text": "You have just successfully logged in."},
    {"action": "pin_message", "points_at_message": True},
]  # fmt: skip
_BOT: list[dict[str, Any]] = [
    {"action": "allow_sending_messages", "reason_domain": "example.org", "without_actor": True},
    {"action": "attach_menu_bot_allowed", "without_actor": True},
    {"action": "send_payment", "amount": 999, "currency": "USD", "recurring": "init", "without_actor": True},
    {"action": "score_in_game", "score": 10_000, "points_at_message": True},
    {"action": "send_webview_data", "without_actor": True},
    {"action": "requested_phone_number"},
    {"action": "send_passport_values", "values": ["personal_details", "email"], "without_actor": True},
    {"action": "requested_peer", "button_id": 8, "peers": [10_001, 20_001]},
]

ACTIONS: dict[str, list[dict[str, Any]]] = {
    "private_group": _GROUP,
    "private_supergroup": _GROUP,
    "public_supergroup": _GROUP,
    "private_channel": _CHANNEL,
    "public_channel": _CHANNEL,
    "bot_chat": _BOT,
    "other": _PERSONAL,
}
