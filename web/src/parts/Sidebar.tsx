import { useRef, useState } from "preact/hooks";
import { api } from "../api";
import { acceptAll, check, choose, command, nextDoubtful, remove, show, tip } from "../commands";
import { act, attempt, category, channel, colorBy, editable, high, image, isProposal, low, objects, opacity, outlines, project, proposals, selected, shades, single, threshold, type Shade } from "../store";
import { texts } from "../texts";
import type { ImageDetail, MaskObject } from "../types";
import { classColor, colorOf } from "../view/paths";

const MAX_ROWS = 200;
const nameOf = (id: number) => project.value?.categories.find((c) => c.id === id)?.name ?? String(id);

export function Sidebar() {
  return (
    <aside class="sidebar">
      <Classes />
      {single.value && <Details object={single.value} key={single.value.id} />}
      <section>
        <h2>{texts.objects} <span class="badge">{objects.value.length}</span></h2>
        {objects.value.length ? <List objects={objects.value} /> : <p class="quiet">{texts.noObjects}</p>}
        {objects.value.length > 1 && <div class="row"><button title={texts.doubledHint} onClick={() => void check("doubled")}>{texts.findDoubled}</button></div>}
      </section>
      <Proposals />
      <Look />
    </aside>
  );
}

function Classes() {
  const [name, setName] = useState("");
  const add = async (event: Event) => {
    event.preventDefault();
    const now = name.trim() && (await attempt(() => api.addCategory(name.trim())));
    if (!now) return;
    project.value = now;
    category.value = now.categories.find((c) => c.name === name.trim())?.id ?? category.value;
    setName("");
  };
  return (
    <section>
      <h2>{texts.classes}</h2>
      <div class="chips" role="group" aria-label={texts.classes}>
        {project.value?.categories.map((c, i) => (
          <button class="chip" aria-pressed={c.id === category.value} onClick={() => choose(c.id)}>
            <span class="swatch" style={{ background: c.color }} />{c.name}{i < 9 && <kbd>{i + 1}</kbd>}
          </button>
        ))}
      </div>
      <form class="row" onSubmit={add}>
        <input value={name} placeholder={texts.newClass} aria-label={texts.newClass} onInput={(e) => setName(e.currentTarget.value)} />
        <button disabled={!name.trim()}>{texts.addClass}</button>
      </form>
    </section>
  );
}

function List({ objects }: { objects: MaskObject[] }) {
  return (
    <ul class="list">
      {objects.slice(0, MAX_ROWS).map((o) => (
        <li key={o.id}><button aria-current={selected.value.has(o.id)} onClick={() => show(o.id)}>
          <span class="swatch" style={{ background: colorOf(o) }} />
          <span class="name">{nameOf(o.category)}{o.crowd && " ∷"}</span>
          <span class="quiet">{o.score !== null ? o.score.toFixed(2) : `${o.area.toLocaleString("en")} px`}</span>
        </button></li>
      ))}
      {objects.length > MAX_ROWS && <li class="quiet">{texts.further(objects.length - MAX_ROWS)}</li>}
    </ul>
  );
}

function Details({ object }: { object: MaskObject }) {
  const own = !isProposal(object.id);
  const written = Object.entries(object.attributes).map(([k, v]) => `${k}=${v}`).join("; ");
  const change = (what: Partial<Pick<MaskObject, "category" | "crowd" | "comment" | "attributes" | "track">>) =>
    void act({ kind: "change", id: object.id, ...what });
  const attributes = (text: string) => Object.fromEntries(
    text.split(";").map((part) => part.split("=").map((s) => s.trim())).filter(([k]) => k).map(([k, v]) => [k, v ?? ""]));
  return (
    <section class="details">
      <h2><span class="swatch" style={{ background: classColor(object.category) }} />{nameOf(object.category)}
        <span class="quiet"> {texts.source[object.source]}</span></h2>
      <p class="quiet">{texts.area} {object.area.toLocaleString("en")} px{object.score !== null && ` · ${texts.score} ${object.score.toFixed(2)}`}</p>
      {own ? <>
        <label class="check"><input type="checkbox" checked={object.crowd} disabled={!editable.value} onChange={(e) => change({ crowd: e.currentTarget.checked })} />{texts.crowd}</label>
        <label>{texts.comment}<input value={object.comment} disabled={!editable.value} onChange={(e) => change({ comment: e.currentTarget.value })} /></label>
        <label>{texts.attributes}<input value={written} placeholder={texts.attributesHint} disabled={!editable.value} onChange={(e) => change({ attributes: attributes(e.currentTarget.value) })} /></label>
        {image.value!.counts.length > 0 && <label>{texts.track}<input type="number" min="0" value={object.track || ""} placeholder={texts.noTrack} disabled={!editable.value}
          onChange={(e) => change({ track: Math.max(0, Math.floor(Number(e.currentTarget.value))) })} /></label>}
        <div class="row">
          <button title={tip("fill")} onClick={() => command("fill").run()}>{texts.commands.fill}</button>
          <button class="danger" title={tip("remove")} onClick={remove}>{texts.commands.remove}</button>
        </div>
      </> : <div class="row">
        <button title={tip("reject")} onClick={() => command("reject").run()}>{texts.reject}</button>
        <button class="primary" title={tip("accept")} onClick={() => command("accept").run()}>{texts.accept}</button>
      </div>}
    </section>
  );
}

function Proposals() {
  const all = image.value?.proposals.length ?? 0;
  return (
    <section>
      <h2>{texts.proposals} <span class="badge soft">{proposals.value.length}</span></h2>
      {all === 0 ? <p class="quiet">{texts.noProposals}</p> : <>
        <label>{texts.threshold} <span class="value">{threshold.value.toFixed(2)}</span>
          <input type="range" min="0" max="1" step="0.01" value={threshold.value} onInput={(e) => { threshold.value = Number(e.currentTarget.value); }} /></label>
        <div class="row">
          <button onClick={() => void nextDoubtful()}>{texts.nextDoubtful}</button>
          <button title={texts.missedHint} onClick={() => void check("missed")}>{texts.findMissed}</button>
          <button class="primary" title={tip("acceptAll")} disabled={!proposals.value.length} onClick={acceptAll}>{texts.acceptAll(proposals.value.length)}</button>
        </div>
        <List objects={proposals.value} />
      </>}
    </section>
  );
}

function Look() {
  const now = image.value;
  return (
    <section>
      <h2>{texts.look}</h2>
      <label>{texts.opacity}<input type="range" min="0" max="1" step="0.05" value={opacity.value} onInput={(e) => { opacity.value = Number(e.currentTarget.value); }} /></label>
      <label class="check"><input type="checkbox" checked={outlines.value} onChange={(e) => { outlines.value = e.currentTarget.checked; }} />{texts.outlines}</label>
      <label>{texts.colorBy}<select value={colorBy.value} onChange={(e) => { colorBy.value = e.currentTarget.value as "class" | "object"; }}>
        <option value="class">{texts.byClass}</option><option value="object">{texts.byObject}</option></select></label>
      {now && (now.channels.length ? <Channels detail={now} /> : <>
        <Contrast key={now.index} span={now.span} window={now.window} bits={now.bits} values={[low.value, high.value]}
          set={(values) => { [low.value, high.value] = values; }} />
        <label>{texts.channel}<select value={channel.value ?? ""} onChange={(e) => { channel.value = e.currentTarget.value === "" ? null : Number(e.currentTarget.value); }}>
          <option value="">{texts.allChannels}</option>{[0, 1, 2].map((c) => <option value={c}>{c + 1}</option>)}</select></label></>)}
    </section>
  );
}

/** Which channels are seen, in which colors, between which values. */
function Channels({ detail: { index, channels, bits } }: { detail: ImageDetail }) {
  const [chosen, choose] = useState(0);
  const change = (k: number, what: Partial<Shade>) => {
    shades.value = shades.value.map((shade, i) => (i === k ? { ...shade, ...what } : shade));
    choose(k);
  };
  const { low, high } = shades.value[chosen] ?? { low: null, high: null };
  return (
    <fieldset class="channels"><legend>{texts.channels}</legend>
      {shades.value.map(({ on, color }, k) => <div class="row">
        <label class="check grow"><input type="checkbox" checked={on} onChange={(e) => change(k, { on: e.currentTarget.checked })} />{texts.channelOf(k)}</label>
        <input type="color" value={color} aria-label={texts.colorOf(k)} onInput={(e) => change(k, { color: e.currentTarget.value })} />
      </div>)}
      <label>{texts.contrastOf}<select value={chosen} onChange={(e) => choose(Number(e.currentTarget.value))}>
        {channels.map((_, k) => <option value={k}>{texts.channelOf(k)}</option>)}</select></label>
      {channels[chosen] && <Contrast key={`${index} ${chosen}`} {...channels[chosen]} bits={bits} values={[low, high]}
        set={([low, high]) => change(chosen, { low, high })} />}
    </fieldset>
  );
}

const STEPS = 500;
const WAIT_MS = 120;

/** Which values are black and white; tiles are asked for once the hand rests. */
function Contrast({ span, bits, window: [black, white], values: [low, high], set: told }: {
  span: [number, number]; window: [number, number]; bits: number; values: [number | null, number | null]; set: (values: [number | null, number | null]) => void;
}) {
  const [now, set] = useState<[number, number]>([low ?? black, high ?? white]);
  const timer = useRef(0);
  const [least, most] = [Math.min(span[0], black), Math.max(span[1], white)];
  const step = bits <= 16 ? 1 : (most - least) / STEPS || 1;
  const take = (values: [number, number]) => {
    set(values);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => told(values), WAIT_MS);
  };
  const automatic = () => {
    clearTimeout(timer.current);
    set([black, white]);
    told([null, null]);
  };
  const slider = (side: 0 | 1, label: string) => (
    <label>{label} <span class="value">{bits <= 16 ? Math.round(now[side]).toLocaleString("en") : now[side].toPrecision(4)}</span>
      <input type="range" min={least} max={most} step={step} value={now[side]} onInput={(e) => {
        const value = Number(e.currentTarget.value);
        take(side ? [Math.min(now[0], value - step), value] : [value, Math.max(now[1], value + step)]);
      }} /></label>
  );
  return <>{slider(0, texts.low)}{slider(1, texts.high)}
    {(low !== null || high !== null) && <button onClick={automatic}>{texts.automatic}</button>}</>;
}
