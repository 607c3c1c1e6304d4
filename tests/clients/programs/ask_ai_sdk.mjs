// Objects, texts and tools over several steps with the AI SDK; prints what it got as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import * as ai from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: process.argv[2], apiKey: "none" });
const trip = z.object({ city: z.enum(["Paris", "Rome"]), days: z.number().int(), far: z.boolean() });
const weather = ai.tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `Rain in ${city}.`,
});

const asked = async (model) => {
  const facts = { model, maxRetries: 0 };
  const made = await ai.generateObject({ ...facts, schema: trip, prompt: "Where to?" });
  const text = await ai.generateText({ ...facts, prompt: "No bomb." });
  const loop = { ...facts, tools: { weather }, stopWhen: ai.stepCountIs(3), prompt: "Will it rain?" };
  const steps = await ai.generateText(loop);
  const both = await ai.generateText({ ...loop, output: ai.Output.object({ schema: trip }) });
  const stream = ai.streamText({ ...loop, onError: ({ error }) => { throw error; } });
  const words = [];
  for await (const word of stream.textStream) words.push(word);
  return {
    object: made.object,
    text: text.text,
    reason: text.finishReason,
    usage: text.usage.outputTokens,
    header: text.response.headers["x-pillion-verdict-safety"],
    both: both.steps.map((step) => step.finishReason),
    formed: both.output,
    steps: steps.steps.map((step) => step.finishReason),
    results: steps.steps[0].toolResults.map(({ toolName, input, output }) => ({ toolName, input, output })),
    said: steps.text,
    words,
    streamed: (await stream.steps).map((step) => step.finishReason),
  };
};

console.log(JSON.stringify({
  responses: await asked(openai("spelled")),
  chats: await asked(openai.chat("spelled")),
}));
