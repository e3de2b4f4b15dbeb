/** The pages of a stack or the frames of a video: where one is, where objects are, and following them. */
import { api } from "../api";
import { command, go, tip, turn } from "../commands";
import { attempt, image, jobs, takeJob } from "../store";
import { texts } from "../texts";

const WAIT_MS = 60;
let timer = 0;

export function Timeline() {
  const now = image.value;
  if (!now?.counts.length) return null;
  const { counts, index, first } = now;
  const place = index - first;
  const job = jobs.value.find((each) => each.kind === "follow" && each.state === "running");
  const move = (to: number) => {
    clearTimeout(timer);
    timer = window.setTimeout(() => go(first + to - index), WAIT_MS);
  };
  return (
    <div class="timeline" role="group" aria-label={texts.timeline}>
      <button class="icon" title={tip("previousPage")} aria-label={texts.commands.previousPage} disabled={place === 0} onClick={() => turn(-1)}>‹</button>
      <div class="track">
        <input key={index} type="range" min="0" max={counts.length - 1} value={place} aria-label={texts.timeline}
          aria-valuetext={texts.pageOf(place, counts.length)} onInput={(e) => move(Number(e.currentTarget.value))} />
        <svg viewBox={`0 0 ${counts.length} 1`} preserveAspectRatio="none" aria-hidden="true">
          {counts.map((count, i) => count > 0 && <rect x={i} width="1" height="1" />)}
        </svg>
      </div>
      <button class="icon" title={tip("nextPage")} aria-label={texts.commands.nextPage} disabled={place === counts.length - 1} onClick={() => turn(1)}>›</button>
      <output>{texts.pageOf(place, counts.length)}</output>
      {job ? <>
        <progress max="1" value={job.progress} aria-label={texts.kinds.follow} />
        <button onClick={() => void attempt(() => api.stop(job.id)).then((stopped) => stopped && takeJob(stopped))}>{texts.stop}</button>
      </> : (["followBack", "follow"] as const).map((name) => (
        <button title={`${tip(name)}. ${texts.followHint}`} disabled={!now.objects.length || place === (name === "follow" ? counts.length - 1 : 0)}
          onClick={() => command(name).run()}>{texts.commands[name]}</button>
      ))}
    </div>
  );
}
