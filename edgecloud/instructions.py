"""What the model is asked to do with a clip, by caption type, language and prompt type."""

from __future__ import annotations

CAPTION_TYPES = ("original", "audio_only")
LANGUAGES = ("chinese", "english")
PROMPT_TYPES = ("default", "detailed", "concise")

# what to describe: `original` the voice and what it says, `audio_only` the voice alone
_SUBJECT = {
    ("chinese", "original"): "这段语音的情感和内容",
    ("chinese", "audio_only"): "这段语音的情感",
    ("english", "original"): "the emotion of this speech and what it is about",
    ("english", "audio_only"): "the emotion of this speech",
}
_TASK = {
    ("chinese", "default"): "请用一句话描述{}。",
    ("chinese", "detailed"): "请详细描述{}，包括语速、音量和音高。",
    ("chinese", "concise"): "请简短描述{}。",
    ("english", "default"): "Describe {} in one sentence.",
    ("english", "detailed"): "Describe {} in detail, with pace, loudness and pitch.",
    ("english", "concise"): "Describe {} briefly.",
}


def instruction(caption_type: str, language: str, prompt_type: str) -> str:
    """The text that follows the clip in the user's turn; the arguments are keys of the tuples above."""
    return _TASK[language, prompt_type].format(_SUBJECT[language, caption_type])
