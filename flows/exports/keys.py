"""Columns of the known members of a message; members that are not listed go to ``extra``.

Source: Telegram Desktop's export_output_json.cpp, 2018 to 2026. The last line of each list has the members
that only the HTML reader yields.
"""

from __future__ import annotations

_FORWARD = """
forwarded_from forwarded_from_id saved_from saved_from_id
forwarded_date forwarded_date_unixtime
"""

_PHOTO = "photo photo_file_size width height media_spoiler"

_MEDIA = f"""
{_PHOTO} file file_name file_size thumbnail thumbnail_file_size media_type sticker_emoji performer title
mime_type duration_seconds self_destruct_period_seconds
contact_information contact_vcard contact_vcard_file_size
location_information live_location_period_seconds place_name address
game_title game_description game_link invoice_information poll todo_list
giveaway_information giveaway_results paid_stars_amount
status description media_text media_links self_destructing live_location
"""

_SERVICE = """
title members inviter message_id game_message_id score amount currency invoice_message_id recurring
duration_seconds discard_reason is_active is_missed information_text reason_domain reason_app_id
reason_app_name values from from_id to to_id distance duration period schedule_date emoticon cost months
days new_title new_icon_emoji_id button_id peer_id peers gift_code boost_peer_id boost_peer_name
unclaimed via_giveaway winners stars boosts peer_name charge_id amount_whole amount_nano is_unclaimed
giveaway_msg_id transaction_id gift_id is_limited is_anonymous gift_text messages_count stars_count
price_stars is_broadcast_messages_allowed completed incompleted items rejected comment price_amount_whole
price_amount_nano price_currency scheduled_date user_initiated day month year
option new_creator bot new_value expired community_id
status
"""


def _columns(**groups: str) -> dict[str, str]:
    return {key: column for column, keys in groups.items() for key in keys.split()}


MESSAGE_KEYS = _columns(forward=_FORWARD, media=_MEDIA)
SERVICE_KEYS = _columns(forward=_FORWARD, media=_MEDIA) | _columns(service=_SERVICE)
