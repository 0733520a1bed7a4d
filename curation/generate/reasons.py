"""Why a prompt, or what was drawn of it, is no sample."""

PROMPT_TOO_LONG = "prompt_too_long"
PROMPT_CONTROL_CHARACTERS = "prompt_control_characters"
PIPELINE_FAILED = "pipeline_failed"
UNSAFE = "unsafe"
NOT_FINITE = "not_finite"
BLANK_IMAGE = "blank_image"

MEANINGS = {
    PROMPT_TOO_LONG: "the prompt is longer than a prompt may be; nothing was drawn",
    PROMPT_CONTROL_CHARACTERS: "the prompt holds control characters; nothing was drawn",
    PIPELINE_FAILED: "the pipeline failed at this prompt, and at no other",
    UNSAFE: "flagged by the safety checker; the image was not kept",
    NOT_FINITE: "the pipeline's numbers were no numbers (NaN), as after an overflow",
    BLANK_IMAGE: "the image has one colour",
}
