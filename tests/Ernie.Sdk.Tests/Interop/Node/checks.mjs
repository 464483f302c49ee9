// OpenAI's own client for JavaScript against `ernie serve`: node checks.mjs URL KEY MODEL. Prints the name of each check that passed; a failure ends the program.
import assert from "node:assert/strict";
import OpenAI, { APIUserAbortError } from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, maxRetries: 0 });
const greedy = { model, temperature: 0, max_completion_tokens: 120 };
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the weather of a city.",
    parameters: { type: "object", properties: { location: { type: "string" } }, required: ["location"] },
  },
};
const ask = (content) => [{ role: "user", content }];

const checks = {
  async chat() {
    const answer = await client.chat.completions.create({ ...greedy, messages: ask("Thank you") });
    assert.equal(answer.choices[0].message.content, "You are welcome!");
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.model, model);
    assert.equal(answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage.total_tokens);
    assert.ok(answer.usage.completion_tokens_details.reasoning_tokens > 0);
  },

  async stream() {
    const stream = await client.chat.completions.create({ ...greedy, messages: ask("Thank you"), stream: true, stream_options: { include_usage: true } });
    let [text, reasoning, pieces, usage, finish] = ["", "", 0, null, null];
    for await (const chunk of stream) {
      const choice = chunk.choices[0];
      text += choice?.delta.content ?? "";
      reasoning += choice?.delta.reasoning_content ?? "";
      if (choice?.delta.content) pieces++;
      finish ??= choice?.finish_reason;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, "You are welcome!");
    assert.ok(reasoning.length > 0 && pieces > 1);
    assert.equal(finish, "stop");
    assert.ok(usage.total_tokens > 0);
  },

  async streamHelper() {
    const runner = client.chat.completions.stream({ ...greedy, messages: ask("Thank you") });
    let deltas = "";
    runner.on("content", (delta) => (deltas += delta));
    assert.equal(await runner.finalContent(), "You are welcome!");
    assert.equal(deltas, "You are welcome!");
  },

  async tools() {
    const messages = ask("How is the weather in Xentadal?");
    const first = await client.chat.completions.create({ ...greedy, messages, tools: [weather] });
    const [call] = first.choices[0].message.tool_calls;
    assert.equal(first.choices[0].finish_reason, "tool_calls");
    assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["get_weather", { location: "Xentadal" }]);
    messages.push(first.choices[0].message, { role: "tool", tool_call_id: call.id, content: '{"temperature": 23, "condition": "snowy"}' });
    const second = await client.chat.completions.create({ ...greedy, messages, tools: [weather] });
    assert.equal(second.choices[0].message.content, "The weather in Xentadal is snowy, 23 degrees.");
  },

  async runTools() {
    const asked = [];
    const tool = {
      type: "function",
      function: {
        ...weather.function,
        parse: JSON.parse,
        function({ location }) {
          asked.push(location);
          return '{"temperature": 23, "condition": "snowy"}';
        },
      },
    };
    for (const stream of [false, true]) {
      const runner = client.chat.completions.runTools({ ...greedy, messages: ask("How is the weather in Xentadal?"), tools: [tool], stream });
      assert.equal(await runner.finalContent(), "The weather in Xentadal is snowy, 23 degrees.");
    }
    assert.deepEqual(asked, ["Xentadal", "Xentadal"]);
  },

  async jsonSchema() {
    const schema = {
      type: "object",
      properties: { city: { type: "string", maxLength: 12 }, seen: { type: "boolean" } },
      required: ["city", "seen"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "visit", schema, strict: true } };
    const answer = await client.chat.completions.parse({ ...greedy, messages: ask("Thank you"), response_format });
    const visit = answer.choices[0].message.parsed;
    assert.deepEqual(Object.keys(visit).sort(), ["city", "seen"]);
    assert.deepEqual([typeof visit.city, typeof visit.seen], ["string", "boolean"]);
  },

  async logprobs() {
    const answer = await client.chat.completions.create({ ...greedy, messages: ask("Thank you"), logprobs: true, top_logprobs: 2 });
    const tokens = answer.choices[0].logprobs.content;
    assert.equal(tokens.map((t) => t.token).join("").trimEnd(), "You are welcome!");
    assert.ok(tokens.every((t) => t.top_logprobs.length === 2 && t.logprob <= 0));
  },

  async completions() {
    const whole = await client.completions.create({ model, prompt: "The clerk keeps the seal.", temperature: 0, max_tokens: 8 });
    assert.equal(whole.object, "text_completion");
    assert.equal(whole.usage.completion_tokens, 8);
    let text = "";
    for await (const chunk of await client.completions.create({ model, prompt: "The clerk keeps the seal.", temperature: 0, max_tokens: 8, stream: true })) text += chunk.choices[0]?.text ?? "";
    assert.equal(text, whole.choices[0].text);
  },

  async models() {
    const ids = [];
    for await (const entry of client.models.list()) ids.push(entry.id);
    assert.deepEqual(ids, [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async errors() {
    await assert.rejects(new OpenAI({ baseURL: `${baseURL}/v1`, apiKey: "wrong", maxRetries: 0 }).models.list(), { status: 401, code: "invalid_api_key" });
    await assert.rejects(client.chat.completions.create({ ...greedy, model: "other", messages: ask("x") }), { status: 404 });
    await assert.rejects(client.chat.completions.create({ ...greedy, messages: ask("x"), n: 2 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "n");
  },

  async abort() {
    // Never ends by itself: neither stop token can come.
    const endless = { model, messages: ask("Who are you?"), max_completion_tokens: 20000, stream: true, logit_bias: { 2: -100, 16: -100 } };
    const stream = await client.chat.completions.create(endless);
    let chunks = 0;
    for await (const _ of stream) {
      if (++chunks === 3) break;
    }
    assert.equal(stream.controller.signal.aborted, true);
    const controller = new AbortController();
    const whole = client.chat.completions.create({ ...endless, stream: false }, { signal: controller.signal });
    setTimeout(() => controller.abort(), 200);
    await assert.rejects(whole, APIUserAbortError);
    // What was left is not computed on: the server is idle again long before 20,000 tokens.
    for (let i = 0; ; i++) {
      const metrics = await (await fetch(`${baseURL}/metrics`, { headers: { authorization: `Bearer ${apiKey}` } })).text();
      const running = /^ernie_requests_running\{[^}]*\} (\d+)/m.exec(metrics);
      assert.ok(running, metrics);
      if (running[1] === "0") break;
      assert.ok(i < 100, "The server went on.");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (e) {
    console.error(`${name}: ${e.stack}`);
    process.exit(1);
  }
  console.log(name);
}
