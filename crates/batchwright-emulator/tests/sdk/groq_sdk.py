"""Drives the emulator with the official Groq package: python groq_sdk.py BASE_URL

BASE_URL is the face's, for example http://127.0.0.1:4711/groq/openai/v1; the package's own is without `/openai/v1`.
Ends with status 0 and one line per step, or with a traceback.
"""

import hashlib
import io
import json
import sys
import time
import urllib.request

import groq

base_url = sys.argv[1].removesuffix("/openai/v1")
control = sys.argv[1].split("/groq/")[0] + "/emulator"
client = groq.Groq(base_url=base_url, api_key="gsk_sdk", max_retries=0)

SMALL, LARGE = "llama-3.1-8b-instant", "openai/gpt-oss-120b"


def step(name):
    print("ok", name)


def control_call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(control + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def prompt_hash(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def user(text):
    return [{"role": "user", "content": text}]


def line(custom_id, text, model=SMALL, method="POST"):
    return json.dumps({"custom_id": custom_id, "method": method, "url": "/v1/chat/completions",
                       "body": {"model": model, "messages": user(text)}})


control_call("POST", "/reset")

# Models.
assert {SMALL, LARGE} <= {model.id for model in client.models.list().data}
assert client.models.retrieve(SMALL).id == SMALL
step("models")

# Chat.
answer = client.chat.completions.with_raw_response.create(
    model=LARGE, messages=user("What is the capital of France?"), max_completion_tokens=500,
    service_tier="on_demand", reasoning_format="parsed",
)
chat = answer.parse()
message = chat.choices[0].message
assert f"[prompt:{prompt_hash('What is the capital of France?')}]" in message.content
assert chat.choices[0].finish_reason == "stop" and message.reasoning and message.tool_calls is None
assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
assert chat.usage.total_time > 0 and chat.usage.queue_time > 0
assert chat.x_groq.id.startswith("req_") and chat.service_tier == "on_demand"
assert chat.id.count("-") == 5 and chat.id.startswith("chatcmpl-")
assert "retry-after" not in answer.headers
step("chat")

stream = client.chat.completions.create(model=SMALL, messages=user("stream"), stream=True)
text, usage = "", None
for chunk in stream:
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    if chunk.x_groq and chunk.x_groq.usage:
        usage = chunk.x_groq.usage
assert prompt_hash("stream") in text
assert usage is None or usage.total_tokens > 0
step("chat stream")

tools = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
chat = client.chat.completions.create(model=SMALL, messages=user("weather"), tools=tools, tool_choice="required")
call = chat.choices[0].message.tool_calls[0]
assert chat.choices[0].finish_reason == "tool_calls" and "city" in json.loads(call.function.arguments)
assert "content" not in chat.choices[0].message.model_fields_set
schema = {"type": "object", "properties": {"answer": {"type": "string"}},
          "required": ["answer"], "additionalProperties": False}
chat = client.chat.completions.create(
    model=LARGE, messages=user("structured"),
    response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}},
)
assert json.loads(chat.choices[0].message.content)["answer"] == f"[prompt:{prompt_hash('structured')}]"
step("tools and structured output")

# Files.
lines = [line(f"r-{n}", f"question {n}", LARGE if n % 2 else SMALL) for n in range(100)]
lines.append(line("hot", "[[error:400]]"))
lines.append(line("odd", "x", method="GET"))
content = ("\n".join(lines) + "\n").encode()
file = client.files.create(file=("shard.jsonl", io.BytesIO(content)), purpose="batch")
assert file.id.startswith("file_") and file.bytes == len(content) and file.purpose == "batch"
assert client.files.info(file.id).filename == "shard.jsonl"
assert client.files.content(file.id).read() == content
assert file.id in [found.id for found in client.files.list().data]
step("files")

# A batch to its end: models mixed, and a bad line that fails alone.
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="7d", metadata={"run": "sdk"}
)
assert batch.id.startswith("batch_") and batch.status == "validating" and batch.metadata == {"run": "sdk"}
assert batch.completion_window == "7d" and batch.expires_at - batch.created_at == 7 * 24 * 3600
seen, deadline = [], time.time() + 60
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    assert time.time() < deadline, batch
    time.sleep(0.02)
    batch = client.batches.retrieve(batch.id)
    if not seen or seen[-1] != batch.status:
        seen.append(batch.status)
assert seen == ["validating", "in_progress", "finalizing", "completed"], seen
counts = batch.request_counts
assert (counts.total, counts.completed, counts.failed) == (102, 100, 2), counts
# The documentation's bare array, where the package's type has an object: its reader passes it by.
errors = json.loads(client.batches.with_raw_response.retrieve(batch.id).text())["errors"]
assert [(error["code"], error["line"]) for error in errors] == [("invalid_method", 102)], errors
rows = [json.loads(text) for text in client.files.content(batch.output_file_id).text().splitlines()]
assert len(rows) == 100 and [row["custom_id"] for row in rows] != [f"r-{n}" for n in range(100)]
for row in rows:
    number = row["custom_id"].split("-")[1]
    body = row["response"]["body"]
    assert prompt_hash(f"question {number}") in body["choices"][0]["message"]["content"]
    assert body["model"] == (LARGE if int(number) % 2 else SMALL)
failed = [json.loads(text) for text in client.files.content(batch.error_file_id).text().splitlines()]
assert {row["custom_id"] for row in failed} == {"hot", "odd"}
invoice = [json.loads(text) for text in control_call("GET", "/invoice").decode().splitlines()]
assert sum(entry["lane"] == "batch" for entry in invoice) == 100
step("batch")

# Expiring, cancelling, the list.
control_call("POST", "/faults", {"rules": [
    {"match": {"method": "POST", "path": "*/batches"}, "times": 1, "actions": [{"expire_after_rows": 10}]}]})
expiring = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
other = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
assert client.batches.cancel(other.id).status == "cancelling"
control_call("POST", "/clock", {"advance": "25h"})
expired = client.batches.retrieve(expiring.id)
assert expired.status == "expired" and expired.output_file_id and expired.error_file_id
assert client.batches.retrieve(other.id).status == "cancelled"
assert {batch.id, expiring.id, other.id} <= {found.id for found in client.batches.list().data}
raises(groq.ConflictError, lambda: client.batches.cancel(batch.id))
step("expiring, cancelling and listing")

# Errors.
error = raises(groq.AuthenticationError, lambda: groq.Groq(
    base_url=base_url, api_key="not well formed", max_retries=0).models.list())
assert error.body["error"]["code"] == "invalid_api_key" and "param" not in error.body["error"]
error = raises(groq.NotFoundError, lambda: client.chat.completions.create(model="gpt-0", messages=user("x")))
assert error.body["error"]["code"] == "model_not_found"
raises(groq.NotFoundError, lambda: client.files.info("file_none"))
raises(groq.NotFoundError, lambda: client.batches.retrieve("batch_none"))
raises(groq.BadRequestError, lambda: client.chat.completions.create(model=SMALL, messages=user("x"), n=2))
raises(groq.BadRequestError, lambda: client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="8d"))
error = raises(groq.RateLimitError, lambda: client.chat.completions.create(
    model=SMALL, messages=user("[[error:429]]")))
assert error.response.headers["retry-after"] and error.body["error"]["code"] == "rate_limit_exceeded"
raises(groq.UnprocessableEntityError, lambda: client.chat.completions.create(
    model=SMALL, messages=user("[[error:422]]")))
raises(groq.InternalServerError, lambda: client.chat.completions.create(
    model=SMALL, messages=user("[[error:500]]")))
control_call("POST", "/faces/groq", {"no_flex_capacity": True})
error = raises(groq.APIStatusError, lambda: client.chat.completions.create(
    model=SMALL, messages=user("x"), service_tier="flex"))
assert error.status_code == 498 and error.body["error"]["code"] == "capacity_exceeded"
control_call("POST", "/faces/groq", {"no_flex_capacity": False})
broken = {"error": {"message": "Tool call validation failed", "type": "invalid_request_error",
                    "code": "tool_use_failed", "failed_generation": "{\"name\":\"f\"}"}}
control_call("POST", "/faults", {"rules": [
    {"match": {"path": "*/chat/completions"}, "times": 1, "actions": [{"reply": {"status": 400, "body": broken}}]}]})
error = raises(groq.BadRequestError, lambda: client.chat.completions.create(
    model=SMALL, messages=user("weather"), tools=tools))
assert error.body["error"]["failed_generation"]
assert client.chat.completions.create(model=SMALL, messages=user("weather"), tools=tools).choices
step("errors")

assert client.files.delete(file.id).deleted
raises(groq.NotFoundError, lambda: client.files.content(file.id))
step("delete")
