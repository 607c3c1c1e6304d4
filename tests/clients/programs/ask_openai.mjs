// Chats, tools, Responses and moderation with OpenAI's client for Node; prints what it got as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const model = "spelled";
const messages = [{ role: "user", content: "hello, no bomb" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];

const whole = await client.chat.completions.create({ model, messages }).withResponse();
const stream = client.chat.completions.stream({ model, messages, tools });
const gathered = await stream.finalChatCompletion();
const runner = client.chat.completions.runTools({
  model, messages,
  tools: [{ type: "function", function: {
    name: "weather", parameters, parse: JSON.parse, function: ({ city }) => `Rain in ${city}.`,
  } }],
});
const ran = await runner.finalContent();
const response = await client.responses.create({ model, input: "hello, no bomb" });
const events = [];
for await (const event of await client.responses.create({ model, input: "hello", stream: true })) events.push(event.type);
const moderation = await client.moderations.create({ model: "safety", input: ["a bakery", "a bomb"] });

console.log(JSON.stringify({
  whole: whole.data.choices[0].message.content,
  verdicts: whole.data.verdicts,
  header: whole.response.headers.get("x-pillion-verdict-safety"),
  gathered: gathered.choices[0],
  ran, turns: runner.messages.map((turn) => turn.role),
  response: [response.output_text, response.verdicts],
  events,
  flagged: moderation.results.map((result) => result.flagged),
}));
