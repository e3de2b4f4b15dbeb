/** Which tool is in hand. */
import { computed, signal } from "@preact/signals";
import { Brush } from "./brush";
import { Polygon } from "./polygon";
import { Prompter } from "./prompter";
import { Select } from "./select";
import { Split } from "./split";
import type { Tool, ToolName } from "./tool";

const prompter = (name: "click" | "box" | "extreme" | "scribble") => new Prompter(name);

const tools: Record<ToolName, Tool> = {
  select: new Select(), click: prompter("click"), box: prompter("box"), extreme: prompter("extreme"),
  scribble: prompter("scribble"), polygon: new Polygon(), brush: new Brush(false), eraser: new Brush(true), split: new Split(),
};

export const toolName = signal<ToolName>("select");
export const tool = computed(() => tools[toolName.value]);

/** What is pending is kept: nobody loses a mask by reaching for another tool or image. */
export async function putDown(): Promise<void> {
  const before = tool.value;
  if (before.held?.()) before.cancel?.();
  const answering = before.finish?.();
  if (answering) await answering; // which leaves nothing pending, unless more was said meanwhile
  else before.cancel?.();
}

export function pick(name: ToolName): void {
  void putDown();
  toolName.value = name;
}
