/** Models propose, learn and are compared in the background. */
import { useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { api } from "../api";
import { attempt, current, forgive, jobs, project, takeJob } from "../store";
import { texts } from "../texts";
import type { Job, JobOrder } from "../types";
import { Curve } from "./Curve";

const VARIANTS = ["mask_rcnn_lite0_fpn", "condinst_lite0_fpn", "yolact_lite0", "mask_rcnn_r50_fpn"];

export async function loadJobs(): Promise<void> {
  const now = await attempt(api.jobs);
  if (now) jobs.value = now;
}

async function order(what: JobOrder): Promise<void> {
  const job = await attempt(() => api.start(what));
  if (!job) return;
  forgive();
  takeJob(job);
}

export function Models() {
  return (
    <main class="page">
      <div class="cards"><Propose /><Train /><Compare /></div>
      <section class="card wide">
        <h2>{texts.running}</h2>
        {jobs.value.length ? jobs.value.map((job) => <JobRow key={job.id} job={job} />) : <p class="quiet">{texts.noJobs}</p>}
      </section>
    </main>
  );
}

function Card(props: { title: string; text: string; start: () => JobOrder; children: ComponentChildren }) {
  return (
    <form class="card" onSubmit={(e) => { e.preventDefault(); void order(props.start()); }}>
      <h2>{props.title}</h2>
      <p class="quiet">{props.text}</p>
      {props.children}
      <button class="primary">{texts.start}</button>
    </form>
  );
}

function ModelChoice({ value, set }: { value: string; set: (name: string) => void }) {
  return (
    <label>{texts.model}<select value={value} onChange={(e) => set(e.currentTarget.value)}>
      {project.value?.models.map((m) => <option value={m.name}>{labelOf(m.name)}</option>)}
    </select></label>
  );
}

/** A run is known by its job's name, which the list must not cut off. */
function labelOf(name: string): string {
  const job = /([^/\\]+)[/\\]run$/.exec(name)?.[1];
  return job ? `${job}: ${name}` : name;
}

const firstModel = () => project.value?.model ?? project.value?.models[0]?.name ?? "";

function Propose() {
  const [model, setModel] = useState(firstModel());
  const [score, setScore] = useState(0.3);
  const [one, setOne] = useState(false);
  return (
    <Card title={texts.propose} text={texts.proposeText}
      start={() => ({ kind: "predict", model: model || firstModel(), threshold: score, indices: one ? [current.value] : null })}>
      <ModelChoice value={model} set={setModel} />
      <label>{texts.minimumScore} <span class="value">{score.toFixed(2)}</span>
        <input type="range" min="0.05" max="0.95" step="0.05" value={score} onInput={(e) => setScore(Number(e.currentTarget.value))} /></label>
      <label>{texts.which}<select value={one ? "one" : "all"} onChange={(e) => setOne(e.currentTarget.value === "one")}>
        <option value="all">{texts.every}</option><option value="one">{texts.unreviewed}</option></select></label>
    </Card>
  );
}

function Train() {
  const [variant, setVariant] = useState(VARIANTS[0]);
  const [epochs, setEpochs] = useState(30);
  const [left, setLeft] = useState<ReadonlySet<number>>(new Set());
  const all = project.value?.categories ?? [];
  const toggle = (id: number, on: boolean) => {
    const now = new Set(left);
    if (on) now.delete(id);
    else now.add(id);
    setLeft(now);
  };
  return (
    <Card title={texts.train} text={texts.trainText}
      start={() => ({ kind: "train", variant, epochs, categories: all.filter((c) => !left.has(c.id)).map((c) => c.id) })}>
      <label>{texts.variant}<input list="variants" value={variant} onInput={(e) => setVariant(e.currentTarget.value)} />
        <datalist id="variants">{VARIANTS.map((v) => <option value={v} />)}</datalist></label>
      <label>{texts.epochs}<input type="number" min="1" max="1000" value={epochs} onInput={(e) => setEpochs(Number(e.currentTarget.value))} /></label>
      <fieldset><legend>{texts.classes}</legend>
        {all.map((c) => <label class="check"><input type="checkbox" checked={!left.has(c.id)} onChange={(e) => toggle(c.id, e.currentTarget.checked)} />{c.name}</label>)}
      </fieldset>
    </Card>
  );
}

function Compare() {
  const [model, setModel] = useState(firstModel());
  return (
    <Card title={texts.measureJob} text={texts.measureText} start={() => ({ kind: "measure", model: model || null })}>
      <ModelChoice value={model} set={setModel} />
    </Card>
  );
}

function JobRow({ job }: { job: Job }) {
  const running = job.state === "running";
  const act = async (what: (id: string) => Promise<Job>) => {
    const now = await attempt(() => what(job.id));
    if (now) takeJob(now);
  };
  return (
    <article class={`job ${job.state}`} aria-label={texts.kinds[job.kind]}>
      <header><b>{texts.kinds[job.kind]}</b> <span class="badge soft">{texts.states[job.state]}</span>
        <span class="quiet grow">{job.result ? texts.results[job.kind](job.result) : job.message}</span>
        {running && job.eta_s !== null && <span class="quiet">{texts.eta(job.eta_s)}</span>}
        {job.state !== "done" && <button onClick={() => void act(running ? api.stop : api.resume)}>{running ? texts.stop : texts.resume}</button>}
      </header>
      <progress max="1" value={job.progress} aria-label={texts.kinds[job.kind]} />
      {job.curve.length > 1 && <Curve points={job.curve} />}
      {job.samples.length > 0 && <figure class="samples"><figcaption class="quiet">{texts.samples}</figcaption>
        {job.samples.map((name) => <img key={name} src={api.sample(job.id, name)} alt={name} />)}</figure>}
    </article>
  );
}
