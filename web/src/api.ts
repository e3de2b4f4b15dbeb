/** The server of this page: one function per route. */
import type {
  Action, Answer, Changed, ExportFormat, ImageDetail, ImageRow, Job, JobOrder, Measures, Order, Project, Prompt,
} from "./types";
import { texts } from "./texts";

export class ApiError extends Error {
  constructor(readonly status: number, message: string, readonly body: Record<string, unknown> = {}) {
    super(message);
  }
}

async function ask<T>(path: string, init?: RequestInit): Promise<T> {
  const response = await answered(path, init);
  return response.json().catch((error: unknown) => {
    throw init?.signal?.aborted ? error : new ApiError(0, texts.offline); // it ended in the middle of its answer
  }) as Promise<T>;
}

async function answered(path: string, init?: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(`/api/${path}`, init);
  } catch (error) {
    if (init?.signal?.aborted) throw error;
    throw new ApiError(0, texts.offline);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ApiError(response.status, sentence(body.detail), body);
}

/** The name that an answer gives what is in it. */
function nameOf(response: Response): string {
  return /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "")?.[1] ?? "export";
}

function sentence(detail: unknown): string {
  return typeof detail === "string" ? detail : texts.unexpected;
}

function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  return ask<T>(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

const exportPath = (format: ExportFormat) => `export?format=${format}`;

export interface TileView { low: number | null; high: number | null; channel: number | null; shades: string | null }

export const api = {
  project: () => ask<Project>("project"),
  addCategory: (name: string, parent?: string) => post<Project>("categories", { name, ...(parent && { parent }) }),
  images: (start: number, count: number, order: Order) =>
    ask<{ total: number; images: ImageRow[] }>(`images?start=${start}&count=${count}&order=${order}`),
  image: (index: number) => ask<ImageDetail>(`images/${index}`),
  thumbnail: (index: number) => `/api/images/${index}/thumbnail`,
  tile: (index: number, level: number, x: number, y: number, view: TileView) => {
    const query = new URLSearchParams();
    if (view.low !== null) query.set("low", String(view.low));
    if (view.high !== null) query.set("high", String(view.high));
    if (view.channel !== null) query.set("channel", String(view.channel));
    if (view.shades !== null) query.set("shades", view.shades);
    return `/api/images/${index}/tile/${level}/${x}/${y}?${query}`;
  },
  act: (index: number, revision: number, action: Action) =>
    post<Changed>(`images/${index}/actions`, { revision, action }),
  undo: (index: number, revision: number) => post<Changed>(`images/${index}/undo`, { revision }),
  redo: (index: number, revision: number) => post<Changed>(`images/${index}/redo`, { revision }),
  check: (index: number) => ask<{ doubled: number[]; missed: number[] }>(`images/${index}/check`),
  look: (index: number) => post<{ ready: boolean }>(`images/${index}/look`, {}),
  click: (index: number, prompt: Prompt, signal?: AbortSignal) => post<Answer>(`images/${index}/click`, prompt, signal),
  save: (options: { format?: string; overwrite?: boolean } = {}) => post<{ path: string; written: number }>("save", options),
  jobs: () => ask<Job[]>("jobs"),
  start: (order: JobOrder) => post<Job>("jobs", order),
  sample: (id: string, name: string) => `/api/jobs/${id}/samples/${name.split("/").map(encodeURIComponent).join("/")}`,
  stop: (id: string) => post<Job>(`jobs/${id}/stop`, {}),
  resume: (id: string) => post<Job>(`jobs/${id}/resume`, {}),
  measure: () => ask<Measures>("measure"),
  exportAddress: (format: ExportFormat) => `/api/${exportPath(format)}`,
  exported: async (format: ExportFormat) => {
    const answer = await answered(exportPath(format));
    return { name: nameOf(answer), content: await answer.blob() };
  },
};

/** Events of the server, for as long as the page is open; the browser connects again by itself. */
export function listen(handlers: Record<string, (data: Record<string, unknown>) => void>): EventSource {
  const source = new EventSource("/api/events");
  for (const [name, handle] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => handle(JSON.parse((event as MessageEvent<string>).data)));
  }
  return source;
}
