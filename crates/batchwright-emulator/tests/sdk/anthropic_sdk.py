"""Drives the emulator with the official Anthropic package: python anthropic_sdk.py BASE_URL

BASE_URL is the address of the `serve` example with the face's path, for example http://127.0.0.1:4711/anthropic.
Ends with status 0 and one line per step, or with a traceback.
"""

import hashlib
import json
import sys
import urllib.error
import urllib.request

import anthropic

base_url = sys.argv[1]
control = base_url.rsplit("/anthropic", 1)[0] + "/emulator"
client = anthropic.Anthropic(base_url=base_url, api_key="sk-ant-sdk", max_retries=0)
HAIKU, SONNET, OPUS = "claude-haiku-4-5", "claude-sonnet-4-6", "claude-opus-5"


def step(name):
    print("ok", name)


def control_call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(control + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def advance(span):
    control_call("POST", "/clock", {"advance": span})


def options(**changes):
    return json.loads(control_call("POST", "/faces/anthropic", changes))


def prompt_hash(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def status_of(**headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(base_url + "/v1/models", headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def user(text):
    return [{"role": "user", "content": text}]


def ask(text, model=HAIKU, **more):
    return client.messages.create(**{"model": model, "max_tokens": 256, "messages": user(text), **more})


control_call("POST", "/reset")
control_call("POST", "/clock", {"time_scale": 0})

# Models.
listed = list(client.models.list(limit=2))
assert len(listed) > 5 and len({model.id for model in listed}) == len(listed)
assert client.models.retrieve(HAIKU).id == "claude-haiku-4-5-20251001"
assert client.models.retrieve(OPUS).max_tokens == 128_000
step("models")

# Messages.
message = ask("What is the capital of France?", system="Be terse.")
assert message.id.startswith("msg_01") and message.model == "claude-haiku-4-5-20251001"
assert f"[prompt:{prompt_hash('Be terse.', 'What is the capital of France?')}]" in message.content[0].text
assert message.stop_reason == "end_turn" and message.usage.output_tokens > 0
assert message.usage.service_tier == "standard" and message._request_id.startswith("req_")
assert ask("cut [[length]]").stop_reason == "max_tokens"
refused = ask("no [[refuse]]")
assert refused.stop_reason == "refusal" and refused.stop_details.category is None
stopped = ask("one two three four five", stop_sequences=["the"])
assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == "the"
raw = client.messages.with_raw_response.create(model=HAIKU, max_tokens=9, messages=user("x"))
for name in ("requests", "tokens", "input-tokens", "output-tokens"):
    assert int(raw.headers[f"anthropic-ratelimit-{name}-limit"]) > 0
    assert raw.headers[f"anthropic-ratelimit-{name}-reset"].endswith("Z")
step("messages")

tools = [{"name": "weather", "description": "Weather.", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]
called = ask("weather", tools=tools, tool_choice={"type": "any"})
use = called.content[0]
assert called.stop_reason == "tool_use" and use.type == "tool_use" and use.id.startswith("toolu_") and "city" in use.input
followed = ask("", tools=tools, messages=user("weather") + [
    {"role": "assistant", "content": called.content},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}])
assert prompt_hash("weather", "sunny") in followed.content[0].text
schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"],
          "additionalProperties": False}
made = json.loads(ask("structured", output_config={"format": {"type": "json_schema", "schema": schema}}).content[0].text)
assert made["answer"] == f"[prompt:{prompt_hash('structured')}]"
thought = ask("think", thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=4096)
assert [block.type for block in thought.content] == ["thinking", "text"] and thought.content[0].signature
assert thought.usage.output_tokens_details.thinking_tokens > 0
thought = ask("think", model=OPUS, thinking={"type": "adaptive", "display": "omitted"})
assert thought.content[0].type == "thinking" and thought.content[0].thinking == ""
again = ask("", model=OPUS, messages=user("think") + [{"role": "assistant", "content": thought.content}] + user("more"))
assert again.stop_reason == "end_turn"
image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
assert ask("", messages=[{"role": "user", "content": [image, {"type": "text", "text": "see"}]}]).content
step("tools, structured output, thinking")

with client.messages.stream(model=OPUS, max_tokens=512, messages=user("stream"), thinking={"type": "adaptive"}) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert prompt_hash("stream") in text and final.content[-1].text == text
assert final.stop_reason == "end_turn" and final.usage.output_tokens > 0 and final.content[0].type == "thinking"
with client.messages.stream(model=HAIKU, max_tokens=512, messages=user("w"), tools=tools,
                            tool_choice={"type": "tool", "name": "weather"}) as stream:
    final = stream.get_final_message()
assert final.stop_reason == "tool_use" and "city" in final.content[0].input
options(stream_error="overloaded_error")
error = raises(anthropic.APIStatusError, lambda: [
    event for event in client.messages.create(model=HAIKU, max_tokens=99, messages=user("x"), stream=True)])
assert error.body["error"]["type"] == "overloaded_error"
options(stream_error=None)
step("streams")

# Caching: a prefix is written once and read until it runs out.
system = [{"type": "text", "text": "s" * 20_000, "cache_control": {"type": "ephemeral"}}]
usages = [ask(text, system=system).usage for text in ("a", "b")]
assert usages[0].cache_creation.ephemeral_5m_input_tokens == 5_000 and usages[0].cache_read_input_tokens == 0
assert usages[1].cache_creation_input_tokens == 0 and usages[1].cache_read_input_tokens == 5_000
advance("6m")
assert ask("c", system=system).usage.cache_read_input_tokens == 0
warm = client.messages.create(model=SONNET, max_tokens=0, system=system, messages=user("warm"))
assert warm.content == [] and warm.stop_reason == "max_tokens"
step("caching")

counted = client.messages.count_tokens(model=HAIKU, messages=user("x" * 400))
assert counted.input_tokens == 100
step("token counting")

# A batch to its end.
requests = [{"custom_id": f"r-{n}", "params": {"model": HAIKU, "max_tokens": 64, "messages": user(f"question {n}")}}
            for n in range(200)]
requests += [
    {"custom_id": "no-messages", "params": {"model": HAIKU, "max_tokens": 64}},
    {"custom_id": "no-model", "params": {"model": "no-such-model", "max_tokens": 64, "messages": user("x")}},
    {"custom_id": "long", "params": {"model": HAIKU, "max_tokens": 9999999, "messages": user("x")}},
    {"custom_id": "none", "params": {"model": HAIKU, "max_tokens": 0, "messages": user("x")}},
]
batch = client.messages.batches.create(requests=requests)
assert batch.id.startswith("msgbatch_01") and batch.processing_status == "in_progress"
assert batch.request_counts.processing == 204 and batch.results_url is None and batch.ended_at is None
assert (batch.expires_at - batch.created_at).total_seconds() == 86_400
# The package looks for the URL first; the service itself says 404.
raises(anthropic.AnthropicError, lambda: client.messages.batches.results(batch.id))
early = raises(anthropic.NotFoundError, lambda: client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=object))
assert early.body["error"]["message"] == f"Message Batch {batch.id} has no available results."
advance("30s")
assert client.messages.batches.retrieve(batch.id).request_counts.processing == 204
advance("1h")
batch = client.messages.batches.retrieve(batch.id)
counts = batch.request_counts
assert batch.processing_status == "ended" and batch.ended_at and batch.results_url.endswith(f"{batch.id}/results")
assert (counts.processing, counts.succeeded, counts.errored, counts.canceled, counts.expired) == (0, 200, 4, 0, 0)
results = list(client.messages.batches.results(batch.id))
assert sorted(row.custom_id for row in results) == sorted(row["custom_id"] for row in requests)
assert [row.custom_id for row in results] != [row["custom_id"] for row in requests]
errors = {}
for row in results:
    if row.result.type == "succeeded":
        number = row.custom_id.split("-")[1]
        assert prompt_hash(f"question {number}") in row.result.message.content[0].text
        assert row.result.message.usage.service_tier == "batch"
    else:
        assert row.result.type == "errored"
        errors[row.custom_id] = row.result.error.error
assert {name: (error.type, error.message) for name, error in errors.items()} == {
    "no-messages": ("invalid_request_error", "messages: Field required"),
    "no-model": ("not_found_error", "model: no-such-model"),
    "long": ("invalid_request_error", "max_tokens: 9999999 > 64000, which is the maximum allowed number of output "
                                      f"tokens for {HAIKU}"),
    "none": ("invalid_request_error", "max_tokens: must be greater than or equal to 1"),
}, errors
invoice = [json.loads(line) for line in control_call("GET", "/invoice").decode().splitlines()]
assert sum(line["lane"] == "batch" and line["face"] == "anthropic" for line in invoice) == 200
step("batch")

# Paging both ways, cancelling, deleting, expiring.
others = [client.messages.batches.create(requests=requests[:2]) for _ in range(5)]
newest_first = [found.id for found in reversed(others)] + [batch.id]
assert [found.id for found in client.messages.batches.list(limit=2)] == newest_first
page = client.messages.batches.list(limit=2, before_id=newest_first[4])
assert [found.id for found in page.data] == newest_first[2:4] and page.has_more
assert (page.first_id, page.last_id) == (newest_first[2], newest_first[3])
before = [found.id for found in client.messages.batches.list(limit=2, before_id=newest_first[4])]
assert sorted(before) == sorted(newest_first[:4]), before
page = client.messages.batches.list(before_id=newest_first[0])
assert page.data == [] and page.first_id is None and not page.has_more
raises(anthropic.BadRequestError, lambda: client.messages.batches.delete(others[0].id))
for other in others[:3]:
    cancelled = client.messages.batches.cancel(other.id)
    assert cancelled.processing_status == "canceling" and cancelled.cancel_initiated_at
advance("10m")
ended = client.messages.batches.retrieve(others[0].id)
assert ended.processing_status == "ended" and ended.request_counts.canceled == 2
assert {row.result.type for row in client.messages.batches.results(others[0].id)} == {"canceled"}
assert client.messages.batches.cancel(others[0].id).processing_status == "ended"
assert client.messages.batches.delete(others[0].id).type == "message_batch_deleted"
raises(anthropic.NotFoundError, lambda: client.messages.batches.retrieve(others[0].id))
control_call("POST", "/faults", {"rules": [{"match": {"method": "POST", "path": "*/batches"}, "times": 1,
                                            "actions": [{"expire_after_rows": 1}]}]})
expiring = client.messages.batches.create(requests=requests[:3])
advance("25h")
assert client.messages.batches.retrieve(expiring.id).request_counts.expired == 2
kinds = sorted(row.result.type for row in client.messages.batches.results(expiring.id))
assert kinds == ["expired", "expired", "succeeded"], kinds
advance("29d")
archived = client.messages.batches.retrieve(expiring.id)
assert archived.archived_at and archived.results_url is None
step("paging, cancelling, deleting, expiring")

# What a creation is refused for at once.
hi = {"model": HAIKU, "max_tokens": 9, "messages": user("x")}
for faulty, said in [
    ([], "requests: List should have at least 1 item after validation, not 0"),
    ([{"params": hi}], "requests.0.custom_id: Field required"),
    ([{"custom_id": "x" * 65, "params": hi}], "requests.0.custom_id: String should have at most 64 characters"),
    ([{"custom_id": "a b", "params": hi}],
     "requests.0.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"),
    ([{"custom_id": "a", "params": hi}] * 2,
     "requests: custom_id's must be unique within a batch. Duplicate custom_id found: a"),
]:
    error = raises(anthropic.BadRequestError, lambda: client.messages.batches.create(requests=faulty))
    assert error.body["error"]["message"] == said, error.body
step("validation")

# The two ways to give a key, the two versions, and errors by their own classes.
assert status_of(x_api_key="k", anthropic_version="2023-06-01") == 200
assert status_of(authorization="Bearer k", anthropic_version="2023-06-01") == 200
assert status_of(x_api_key="k") == 400
assert status_of(anthropic_version="2023-06-01") == 401
old, new = ({"anthropic-version": version} for version in ("2023-06-01", "2026-10-21"))
assert ask("x", extra_body={"temperature": 0.5}, extra_headers=old).content
raises(anthropic.BadRequestError, lambda: ask("x", extra_body={"temperature": 1.0}, extra_headers=new))
raises(anthropic.BadRequestError, lambda: ask("x", model=OPUS, extra_body={"temperature": 0.5}, extra_headers=old))
error = raises(anthropic.AuthenticationError, lambda: anthropic.Anthropic(
    base_url=base_url, api_key="not well formed", max_retries=0).models.list())
assert error.body["error"]["message"] == "API key is invalid."
assert "model: claude-0" in str(raises(anthropic.NotFoundError, lambda: ask("x", model="claude-0")))
raises(anthropic.NotFoundError, lambda: ask("x", model="claude-opus-4-1"))
raises(anthropic.NotFoundError, lambda: client.messages.batches.retrieve("msgbatch_none"))
for status, kind in [(400, "BadRequestError"), (403, "PermissionDeniedError"), (409, "ConflictError"),
                     (413, "RequestTooLargeError"), (429, "RateLimitError"), (500, "InternalServerError"),
                     (503, "ServiceUnavailableError"), (504, "DeadlineExceededError"), (529, "OverloadedError")]:
    error = raises(getattr(anthropic, kind, anthropic.APIStatusError), lambda: ask(f"[[error:{status}]]"))
    assert error.status_code == status and error.body["request_id"] == error.request_id
assert raises(anthropic.RateLimitError, lambda: ask("[[error:429]]")).response.headers["retry-after"] == "1"
for limit, status, code in [("enforced", 429, "enforced_spend_limit_reached"), ("own", 400, None),
                            ("linked", 402, "linked_organization_spend_limit_reached")]:
    options(spend_limit=limit)
    error = raises(anthropic.APIStatusError, lambda: ask("x"))
    assert error.status_code == status and "retry-after" not in error.response.headers
    assert (error.body["error"]["details"] or {}).get("error_code") == code
options(spend_limit="none")
for bad in ({"thinking": {"type": "adaptive"}}, {"max_tokens": 99_999, "timeout": 60}, {"tool_choice": {"type": "any"}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {"messages": user("x" * 900_000)}):
    raises(anthropic.BadRequestError, lambda: ask("x", **bad))
error = raises(anthropic.BadRequestError, lambda: ask("", model=OPUS, messages=user("x") + [
    {"role": "assistant", "content": "{"}]))
assert "prefill" in str(error)
control_call("POST", "/faults", {"rules": [
    {"match": {"method": "GET", "path": "*/models"}, "times": 1, "actions": ["commit_then_drop"]}]})
raises(anthropic.APIConnectionError, lambda: client.models.list())
assert client.models.list().data
step("keys, versions, errors")
