"use strict";
// Plays cycles and moves the playhead; sorts the list of recordings. No module: browsers load none for a file.
const player = document.getElementById("player");
const playButtons = [...document.querySelectorAll("button[data-start]")];
const playhead = document.getElementById("playhead");
const track = document.getElementById("track");
const scroller = document.getElementById("scroller");
const duration_s = Number(track?.dataset.duration);
let playedTo_s = null; // end of the cycle that is being played, null when it is the whole recording

function mark(start) {
  for (const button of playButtons) button.setAttribute("aria-pressed", String(start !== null && button.dataset.start === start.dataset.start && button.dataset.end === start.dataset.end));
}

// Scrolls the picture so that this time is seen.
function reveal(time_s) {
  const left = (track.clientWidth * time_s) / duration_s - scroller.scrollLeft;
  if (left < 0 || left > scroller.clientWidth) scroller.scrollLeft += left - scroller.clientWidth / 10;
}

function stop() {
  playedTo_s = null;
  player.pause();
  mark(null);
}

function follow() {
  playhead.hidden = false;
  playhead.style.left = `${(100 * player.currentTime) / duration_s}%`;
  if (!player.paused) reveal(player.currentTime);
  if (playedTo_s !== null && player.currentTime >= playedTo_s) stop();
  else if (!player.paused && !player.ended) requestAnimationFrame(follow);
}

async function play(button) {
  const isPlaying = button.getAttribute("aria-pressed") === "true";
  stop();
  if (isPlaying) return;
  player.currentTime = Number(button.dataset.start);
  playedTo_s = Number(button.dataset.end);
  mark(button);
  await player.play().catch(stop);
}

if (player) {
  for (const button of playButtons) button.addEventListener("click", () => play(button));
  player.addEventListener("play", () => requestAnimationFrame(follow));
  player.addEventListener("timeupdate", follow); // goes on in a tab that is not seen
  player.addEventListener("ended", stop);
  document.addEventListener("keydown", ({ key }) => key === "Escape" && stop());
  document.getElementById("stage").addEventListener("click", ({ clientX }) => {
    const { left, width } = track.getBoundingClientRect();
    stop();
    player.currentTime = ((clientX - left) / width) * duration_s;
  });
}

if (playButtons.length > 0) reveal(Number(playButtons[0].dataset.start));

const table = document.getElementById("list");
const heads = [...(table?.tHead.rows[0].cells ?? [])];
heads.forEach((head, column) =>
  head.firstElementChild.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => sign * value(a).localeCompare(value(b), "en", { numeric: true }));
    table.tBodies[0].append(...rows);
  }),
);
