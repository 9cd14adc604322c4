// Follows one task in a browser: each of its events once, 1..N, whatever becomes of the connection and of the ticket.

/** Exchanges a name and a password for a token, which stays in this page's memory. */
export async function signIn(gateway, username, password) {
  return (await post(`${gateway}/auth/token`, { username, password })).access_token;
}

/** Calls `event` for each event of a task until its last, and `state` with what to tell a person; resolves once it is connected. */
export async function follow(gateway, token, taskId, { event, state }) {
  const types = await eventTypes(gateway);
  let last = 0;
  let refused = 0;

  async function open() {
    // A page of the gateway's own origin has a cookie by this, good as long as the token; any other one has a ticket, good for 60 s.
    const { ticket } = await post(`${gateway}/v1/watch-tickets`, { task_id: taskId }, token);
    refused = 0;
    const url = new URL(`${gateway}/v1/tasks/${taskId}/events`);
    if (url.origin !== location.origin) url.searchParams.set("ticket", ticket);
    if (last) url.searchParams.set("last_event_id", last);
    const source = new EventSource(url);
    for (const type of types) {
      source.addEventListener(type, (message) => {
        last = Number(message.lastEventId);
        event(JSON.parse(message.data));
      });
    }
    source.addEventListener("end", () => {
      source.close();
      state("ended");
    });
    source.onopen = () => state("connected");
    source.onerror = () => {
      // A connection that broke is opened again by the browser, with Last-Event-ID. A refusal is final for it: the ticket or the
      // cookie is over, or the gateway restarts; then we ask for another.
      state("lost");
      if (source.readyState === EventSource.CLOSED) setTimeout(again, 1000);
    };
  }

  async function again() {
    try {
      await open();
    } catch (error) {
      state(error.message);
      // A gateway that has just started may not have the keys yet that verify a token, and refuses each for a moment.
      if (error.status === 401 && ++refused > 30) state("sign in again");
      else if (!error.status || error.status === 401 || error.status >= 500) setTimeout(again, 1000);
    }
  }

  await open();
}

/** Every type of event: an EventSource hands over only those that it was asked for. */
async function eventTypes(gateway) {
  const catalogue = await (await fetch(`${gateway}/asyncapi.json`)).json();
  return Object.keys(catalogue.channels["task-events"].messages);
}

async function post(url, body, token) {
  const headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  const json = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(json.message), { status: answer.status });
  return json;
}
