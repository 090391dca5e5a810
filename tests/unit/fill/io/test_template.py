"""Templates: equal to transformers' rendering, and stopped whatever they do."""

from __future__ import annotations

import time
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from onereward.fill.io.template import render_template
from onereward.reward.judge import BUNDLED_FOLDER

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": [{"type": "text", "text": "Be <brief> & fair."}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "  Is it 猫?\n"}]},
]
# After the template of Qwen2.5-VL, whose counters and conditions are those of its relatives.
QWEN = """{% set image_count = namespace(value=0) %}{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}
{% if content['type'] == 'image' or 'image' in content %}
{% set image_count.value = image_count.value + 1 %}
{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|vision_end|>
{%- elif 'text' in content %}{{ content['text'] | trim }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}
"""
TEMPLATES = {
    "bundled": (BUNDLED_FOLDER / "chat_template.jinja").read_text("utf-8"),
    "qwen": QWEN,
    "tools": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% generation %}{{ m | tojson }}{% endgeneration %}{{ m.content[1].text.split()[0] | upper }}"
    "{{ m.role.replace('u', 'U') ~ ',' ~ (m.content | map(attribute='type') | join('+')) }}"
    "{% endfor %}{{ '-' * 3 + 'x' }}{{ 2 ** 10 }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_equal_to_the_rendering_of_transformers(name: str):
    options: dict[str, Any] = {
        "add_generation_prompt": True,
        "enable_thinking": False,
        "add_vision_id": True,
    }
    expected, _ = render_jinja_template([MESSAGES], chat_template=TEMPLATES[name], **options)
    assert render_template(TEMPLATES[name], messages=MESSAGES, **options) == expected[0]


GROWING = "{% set n = namespace(x='ab') %}{% for i in range(90) %}{% set n.x EDIT %}{% endfor %}"
HOSTILE = {
    "two loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "repeated text": "{{ 'a' * 10 ** 11 }}",
    "repeated list": "{{ 10 ** 11 * [0] }}",
    "doubled": GROWING.replace("EDIT", "= n.x ~ n.x"),
    "added": GROWING.replace("EDIT", "= n.x + n.x"),
    "added list": GROWING.replace("EDIT", "= n.x|list + n.x|list"),
    "captured": GROWING.replace("EDIT", "").replace(
        "%}{% endfor", "%}{{ n.x }}{{ n.x }}{% endset %}{% endfor"
    ),
    "squared": GROWING.replace("'ab'", "9").replace("EDIT", "= n.x * n.x"),
    "recursive macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "wide": "{{ 'a'.center(10 ** 10) }}",
    "wide filter": "{{ 'a' | center(10000000000) }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "format": "{{ '{:9999999999}'.format(1) }}",
    "replaced": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "replaced by method": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "joined": "{{ range(99999) | join('b' * 99999) }}",
    "deep": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "raises": "{{ raise_exception('x' * 9999) }}",
    "no template": "{% for",
    "missing": "{{ a.b.c }}",
    "file": "{% include '/etc/passwd' %}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__.x }}",
    "change": "{{ messages.append(1) }}",
    "long": "{# #}" * 99999,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_stopped_soon_in_a_sentence(name: str):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^the template ") as caught:
        render_template(HOSTILE[name], messages=MESSAGES)
    assert time.monotonic() - start < 10
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)
