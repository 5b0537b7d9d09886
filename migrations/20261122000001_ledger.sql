-- The ledger: what is true about every run. Private: nothing of it is exposed over the Data API.
-- Safe to run again. Needs no superuser and no extension.

set local lock_timeout = '5s';

create schema if not exists sluice;
comment on schema sluice is 'Sluice''s ledger. Private: reach it through the services, or as the owner.';

-- A new id: uuid v7 whose first random bits are the fraction of the millisecond, so that ids sort
-- by their moment and an index of them grows at its end.
create or replace function sluice.new_id()
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
  micros constant bigint := extract(epoch from clock_timestamp()) * 1000000;
begin
  return encode(
    int8send((micros / 1000) << 16 | x'7000'::bigint | (micros % 1000) * 4096 / 1000)
      || substring(uuid_send(gen_random_uuid()) from 9),
    'hex'
  )::uuid;
end
$$;

-- The workflows that deployed builds have registered: what a run is started by, and which functions
-- of its own a workflow has.
create table if not exists sluice.workflow (
  name text primary key,
  -- The newest version: what a new run gets.
  version smallint not null,
  first_step text not null,
  priority smallint not null default 0,
  deadline interval not null,
  -- Writes the app's own tables when runs change: schema.function(uuid[]), told of run ids.
  projection text,
  -- Turns the app's own rows into runs: schema.function(integer), told how many at most.
  source text,
  -- Which of these subjects are gone: schema.function(text[]) returns text[]. Nothing is made for
  -- them any more.
  gone text
);

-- The steps of every registered version.
create table if not exists sluice.definition (
  workflow text not null,
  version smallint not null,
  position smallint not null,
  step text not null,
  -- The API host whose gate the step stands behind.
  host text,
  lease interval not null,
  -- It may create or delete: nobody else may touch the resource meanwhile.
  exclusive boolean not null,
  deadline interval not null,
  primary key (workflow, version, position)
);

-- What a column may say, as types: Postgres reads a check from its text again in every statement
-- that writes, and keeps a type's. So the checks of the tables that each step writes are short.
do $$
begin
  if to_regtype('sluice.run_state') is null then
    create domain sluice.run_state as text
      check (value in ('active', 'succeeded', 'dead', 'cancelled'));
    create domain sluice.step_state as text
      check (value in ('due', 'running', 'succeeded', 'dead', 'cancelled'));
    create domain sluice.outcome as text
      check (value in ('succeeded', 'failed', 'deferred', 'crashed', 'sent_back', 'refused', 'cancelled'));
    create domain sluice.bounded_text as text
      check (octet_length(value) <= 4096);
  end if;
end
$$;

-- The tables that each step writes are analyzed rarely: an analyze has every connection plan all
-- its statements anew, some 30 ms each, and those that are asked all the time are look-ups by key,
-- whatever the statistics say.

-- One execution of a workflow for one subject. Ids are uuid v7: later runs have greater ones.
create table if not exists sluice.run (
  id uuid primary key,
  workflow text not null,
  version smallint not null,
  subject text not null,
  resource text not null,
  input jsonb not null default '{}',
  state sluice.run_state not null default 'active',
  -- The span of the run's intake; at first the context that its request gave.
  traceparent text,
  -- The context that its request gave: the span of the whole run is below it. Null since a revival.
  asked_traceparent text,
  -- The trace that the run was in before its last revival: a revived run begins a new one.
  linked_traceparent text,
  deadline_at timestamptz not null,
  -- Up to when the time that a gate held the run is in `deadline_at` already.
  deadline_from timestamptz not null default now(),
  -- A cancellation is asked for here and happens at once, or at the settle of the step that is
  -- running.
  cancel_by text,
  cancel_reason text,
  -- Sluice started it for itself: nobody is told of its success.
  internal boolean not null default false,
  -- It waits for its turn on the resource.
  waits boolean not null default false,
  -- How many events it has announced.
  events integer not null default 0,
  -- When somebody asked for it: the sign-up's own moment.
  requested_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  revived_at timestamptz,
  ended_at timestamptz,
  -- It was cancelled by SQL alone, and no relay has exported its span yet.
  span_waits boolean not null default false,
  constraint run_state check ((state = 'active') = (ended_at is null))
) with (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_analyze_scale_factor = 0.2,
  autovacuum_analyze_threshold = 100000
);

-- At most one unfinished run per subject and workflow: starting again joins it.
create unique index if not exists run_one_unfinished
  on sluice.run (workflow, subject)
  where state in ('active', 'dead');
create index if not exists run_by_subject on sluice.run (subject, id);
create index if not exists run_deadline on sluice.run (deadline_at) where state = 'active';
-- What retention looks for; it costs next to nothing to keep.
create index if not exists run_ended on sluice.run using brin (ended_at) with (pages_per_range = 32, autosummarize = on);
-- Empty but where runs share a resource.
create index if not exists run_waits on sluice.run (resource, id) where waits;
create index if not exists run_span_waits on sluice.run (id) where span_waits;

-- One step of a run. A `due` row is the outbox entry that is pushed to Redis: whether Redis holds
-- it is no state of the ledger. Without a moment (due_at is null) it waits: for an earlier step, or
-- for its run's turn on the resource.
create table if not exists sluice.step (
  run_id uuid not null,
  position smallint not null,
  name text not null,
  state sluice.step_state not null default 'due',
  priority smallint not null default 0,
  -- Which time it is due: a hint of an earlier one claims nothing.
  generation integer not null default 1,
  token bigint,
  due_at timestamptz,
  started_at timestamptz,
  lease_until timestamptz,
  worker text,
  -- The span of the attempt that runs, where one is recorded, and the one above it: a rescue
  -- exports what a dead worker cannot.
  traceparent text,
  parent_span text,
  failures integer not null default 0,
  crashes integer not null default 0,
  send_backs integer not null default 0,
  defers integer not null default 0,
  attempts integer not null default 0,
  -- The run's end was asked for while this step ran: its settle ends the run.
  cancel_asked boolean not null default false,
  output jsonb,
  error text,
  -- Why it waits, where the breaker of its host is open.
  held_by text,
  primary key (run_id, position),
  constraint step_state check ((state = 'running') = (token is not null))
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_analyze_scale_factor = 0.2,
  autovacuum_analyze_threshold = 100000
);

-- One index per question that is asked all the time, each of live rows only. A renewal changes no
-- indexed column.
create index if not exists step_due on sluice.step (name, priority, due_at) where state = 'due';
create index if not exists step_running on sluice.step (name) where state = 'running';
create index if not exists step_held on sluice.step (run_id, position) where held_by is not null;

-- Every attempt that ended, and how. The same attempt cannot end twice.
create table if not exists sluice.attempt (
  id bigint generated always as identity,
  run_id uuid not null,
  position smallint not null,
  step text not null,
  token bigint not null,
  worker text not null,
  started_at timestamptz not null,
  ended_at timestamptz not null default now(),
  outcome sluice.outcome not null,
  class text,
  http_status smallint,
  error sluice.bounded_text,
  note text,
  trace_id text,
  span_id text,
  primary key (run_id, position, token)
) with (autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 100000);

-- Announcements for other programs, published at least once. One that is not published outlives its
-- run, until retention drops it.
create table if not exists sluice.event (
  -- None at random: among millions each would come to lie on a page of its own, which is read first
  -- and, after a checkpoint, goes into the WAL in full.
  id uuid primary key default sluice.new_id(),
  -- The run whose event it is; the events of a gate have an id that is made of the gate's name.
  run_id uuid not null,
  -- Its place among the events of that run or gate: they go out in this order.
  sequence integer not null,
  -- What happened, and the version of the payload's schema: docs/events.md.
  type text not null,
  routing_key text not null,
  payload jsonb not null,
  traceparent text,
  created_at timestamptz not null default now(),
  -- Who has it in hand to publish it, and until when.
  claimed_by text,
  claimed_until timestamptz,
  published_at timestamptz,
  -- When a person last asked that it goes out once more: its retention counts from there.
  replayed_at timestamptz
) with (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_analyze_scale_factor = 0.2,
  autovacuum_analyze_threshold = 100000
);
create unique index if not exists event_of_run on sluice.event (run_id, sequence);
create index if not exists event_unpublished on sluice.event (created_at) where published_at is null;
create index if not exists event_published on sluice.event (published_at) where published_at is not null;

-- The events of a workflow's own that the ends of its runs are announced by, beside the engine's: a
-- workflow's migration adds a row.
create table if not exists sluice.announcement (
  workflow text not null,
  -- succeeded, dead, cancelled
  state text not null,
  -- Of the event, and its routing key.
  type text not null,
  routing_key text not null,
  primary key (workflow, state)
);

-- A run that needs a person.
create table if not exists sluice.dead_letter (
  id bigint generated always as identity primary key,
  run_id uuid not null,
  position smallint not null,
  step text not null,
  reason text not null
    check (reason in ('permanent_error', 'attempts_exhausted', 'worker_lost', 'deadline_exceeded')),
  class text,
  error text,
  died_at timestamptz not null default now(),
  resolved_at timestamptz,
  resolution text check (resolution in ('revived', 'discarded')),
  resolved_by text,
  note text,
  constraint dead_letter_resolved check ((resolved_at is null) = (resolution is null))
);
create index if not exists dead_letter_of_run on sluice.dead_letter (run_id);
create unique index if not exists dead_letter_open on sluice.dead_letter (run_id) where resolved_at is null;

-- What runs work on, one row per name: whose turn it is, until when a call that creates or deletes
-- may be under way (nobody else touches the name until then), and what its workflow keeps of it.
-- The engine never looks into `memory`.
create table if not exists sluice.resource (
  name text primary key,
  subject text not null,
  -- The workflow that made it. Others may work on it.
  workflow text not null,
  run_id uuid,
  busy_until timestamptz,
  busy_token bigint,
  -- Until when such a call may be under way though its worker is gone: `busy_until` is that of a
  -- worker that may still send one.
  call_until timestamptz,
  -- A call of this workflow outlived its lease and may have met another one: the resource is looked
  -- at again once the run there has succeeded.
  doubted_at timestamptz,
  doubted_workflow text,
  -- When a step that may create or delete was first claimed: from then on a worker reads back
  -- before it acts.
  exclusive_at timestamptz,
  -- Drawn by us and stored before the first call.
  secret text not null,
  memory jsonb not null default '{}',
  -- When a report, and no run, last changed the memory, and which keys reports may change. An
  -- attempt that began earlier has seen older values of these.
  heard_at timestamptz,
  heard text[],
  created_at timestamptz not null default now()
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_analyze_scale_factor = 0.2,
  autovacuum_analyze_threshold = 100000
);
create index if not exists resource_by_subject on sluice.resource (subject);
create index if not exists resource_doubted on sluice.resource (doubted_at) where doubted_at is not null;

-- What may be tried. A gate passes or is closed; only a breaker is open.
create table if not exists sluice.gate (
  scope text not null check (scope in ('workflow', 'step', 'host')),
  name text not null,
  paused_at timestamptz,
  paused_by text,
  hold_until timestamptz,
  hold_reason text,
  rate double precision check (rate > 0),
  allowance double precision not null default 0,
  refilled_at timestamptz not null default now(),
  concurrency integer check (concurrency > 0),
  breaker text not null default 'closed' check (breaker in ('closed', 'open', 'half_open')),
  breaker_at timestamptz,
  breaker_cause text check (breaker_cause in ('outage', 'key')),
  breaker_reason text,
  -- The runs that failed since the last good answer, each once, and when the first of them did.
  failing_runs uuid[] not null default '{}',
  failing_since timestamptz,
  -- The run that may pass a half-open breaker. The next probe is made from `probe_at` on; whoever
  -- makes it moves that on.
  probe_run uuid,
  probe_at timestamptz,
  probes integer not null default 0,
  -- When it was last opened again: its backlog is let go slowly at first.
  reopened_at timestamptz,
  -- How many events have announced that it closed or passes again.
  events integer not null default 0,
  primary key (scope, name),
  constraint gate_breaker check ((breaker = 'closed') = (breaker_cause is null))
);

-- Time that does not count towards the deadlines of runs, whatever caused it: when a gate was
-- closed (scope and name are the gate's), and when a step waited for its turn behind a limit (scope
-- `run`, name is the run's id).
create table if not exists sluice.closed_time (
  scope text not null check (scope in ('workflow', 'step', 'host', 'run')),
  name text not null,
  cause text not null check (cause in ('pause', 'hold', 'breaker', 'limit')),
  closed_at timestamptz not null,
  passed_at timestamptz,
  primary key (scope, name, cause, closed_at)
);

-- Announces that a gate has closed, or passes again, whatever closed it. The caller has its row
-- locked.
create or replace function sluice.announce_gate(gate sluice.gate, what text)
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  place integer;
begin
  -- A gate whose row somebody has deleted counts on.
  update sluice.gate as changed
  set events = 1 + greatest(
    changed.events,
    (
      select max(said.sequence)
      from sluice.event as said
      where said.run_id = md5(announce_gate.gate.scope || '/' || announce_gate.gate.name)::uuid
    )
  )
  where changed.scope = announce_gate.gate.scope
    and changed.name = announce_gate.gate.name
  returning changed.events
  into place;
  insert into sluice.event (run_id, sequence, type, routing_key, payload)
  values (
    md5(announce_gate.gate.scope || '/' || announce_gate.gate.name)::uuid, place, 'sluice.gate.' || what || '.v1',
    'gate.' || what,
    jsonb_strip_nulls(jsonb_build_object(
      'subject', announce_gate.gate.scope || '/' || announce_gate.gate.name,
      'scope', announce_gate.gate.scope,
      'name', announce_gate.gate.name,
      'paused_by', case when announce_gate.gate.paused_at is not null then announce_gate.gate.paused_by end,
      'held_until', case when announce_gate.gate.hold_until > now() then announce_gate.gate.hold_until end,
      'breaker', case when announce_gate.gate.breaker <> 'closed' then announce_gate.gate.breaker_cause end,
      'reason', case when what = 'closed' then coalesce(announce_gate.gate.breaker_reason, announce_gate.gate.hold_reason) end
    ))
  );
end
$$;
revoke all
  on function sluice.announce_gate(sluice.gate, text)
  from public;

-- A trigger, so that a gate that a person closes with SQL counts like one that Sluice closes. A
-- gate that was not there let pass.
create or replace function sluice.note_closed_time()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  changed record;
  -- Closed before, and now.
  stood constant boolean := coalesce(
    old.paused_at is not null or coalesce(old.hold_until > now(), false) or old.breaker <> 'closed', false
  );
  stands constant boolean := new.paused_at is not null or coalesce(new.hold_until > now(), false) or new.breaker <> 'closed';
begin
  if stands <> stood then
    perform sluice.announce_gate(new, case when stands then 'closed' else 'passing' end);
  end if;
  for changed in
    select cause, closed
    from (
      values
        ('pause', old.paused_at is not null, new.paused_at is not null),
        ('breaker', coalesce(old.breaker <> 'closed', false), new.breaker <> 'closed')
    ) as causes (cause, was_closed, closed)
    where closed <> was_closed
  loop
    if changed.closed then
      insert into sluice.closed_time (scope, name, cause, closed_at)
      values (new.scope, new.name, changed.cause, now())
      on conflict (scope, name, cause, closed_at) do update
      set passed_at = null;
    else
      update sluice.closed_time
      set passed_at = now()
      where scope = new.scope
        and name = new.name
        and cause = changed.cause
        and passed_at is null;
    end if;
  end loop;

  if new.hold_until is null or new.hold_until > coalesce(old.hold_until, '-infinity') then
    update sluice.closed_time
    set passed_at = coalesce(new.hold_until, now())
    where scope = new.scope
      and name = new.name
      and cause = 'hold'
      and passed_at > now();
    if not found and new.hold_until > now() then
      insert into sluice.closed_time (scope, name, cause, closed_at, passed_at)
      values (new.scope, new.name, 'hold', now(), new.hold_until)
      on conflict (scope, name, cause, closed_at) do update
      set passed_at = excluded.passed_at;
    end if;
  end if;

  delete from sluice.closed_time
  where scope = new.scope
    and name = new.name
    and passed_at < now() - interval '90 days';
  return null;
end
$$;
revoke all
  on function sluice.note_closed_time()
  from public;

create or replace trigger note_closed_time
  after update of paused_at, hold_until, breaker
  on sluice.gate
  for each row
  when (
    (old.paused_at, old.hold_until, old.breaker) is distinct from (new.paused_at, new.hold_until, new.breaker)
  )
  execute function sluice.note_closed_time();

create or replace trigger note_closed_time_at_insert
  after insert
  on sluice.gate
  for each row
  when (new.paused_at is not null or new.hold_until is not null or new.breaker <> 'closed')
  execute function sluice.note_closed_time();

-- Who waited behind the last limit that is taken away: from now on nothing says that there was one.
create or replace function sluice.note_waits()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into sluice.closed_time (scope, name, cause, closed_at, passed_at)
  select 'run', run_id, 'limit', due_at, now()
  from sluice.step
  where state = 'due'
    and due_at < now()
    and case new.scope
      when 'host' then name in (select definition.step from sluice.definition where definition.host = new.name)
      else name = new.name
    end
  on conflict (scope, name, cause, closed_at) do update
  set passed_at = excluded.passed_at;
  return null;
end
$$;
revoke all
  on function sluice.note_waits()
  from public;

create or replace trigger note_waits
  after update of rate, concurrency
  on sluice.gate
  for each row
  when (
    new.scope <> 'workflow'
    and (old.rate is not null or old.concurrency is not null)
    and new.rate is null
    and new.concurrency is null
  )
  execute function sluice.note_waits();

-- Rows of the app that its schema refused or had locked: they are written again until they hold.
create table if not exists sluice.projection_pending (
  workflow text not null,
  subject text not null,
  run_id uuid not null,
  since timestamptz not null default now(),
  tried_at timestamptz not null default now(),
  tries integer not null default 1,
  -- A source took the app's row and could not write it: it is not taken again, and may be written
  -- over.
  taken boolean not null default false,
  error text not null,
  primary key (workflow, subject)
);

-- The inbox of sluice.start: somebody asks for a run. A row goes when it is taken; one that cannot
-- be taken says why.
create table if not exists sluice.request (
  id bigint generated always as identity primary key,
  workflow text not null,
  subject text not null,
  resource text,
  input jsonb not null default '{}',
  traceparent text,
  requested_by text not null,
  requested_at timestamptz not null default now(),
  refused_at timestamptz,
  error text
);
create index if not exists request_waiting on sluice.request (id) where refused_at is null;

-- Which worker lives. Named after the worker's own name, which is new at every start. Unlogged: a
-- beat that moves no lease is no commit to disk, and a Postgres that starts again rescues nobody
-- before all have beaten anew.
create unlogged table if not exists sluice.heartbeat (
  worker text primary key,
  beat_at timestamptz not null default now(),
  -- The session that beats holds an advisory lock: (7319, the hash of the worker's name).
  has_session boolean not null default false,
  -- Since when that session is known to have ended.
  gone_at timestamptz
);

-- How the whole system stands, as the relays' metrics show it: whichever relay is asked takes it
-- anew once it is some seconds old, the others read it here.
create table if not exists sluice.gauges (
  only_row boolean primary key default true check (only_row),
  taken_at timestamptz not null default '-infinity',
  taken jsonb not null default '{}'
);
insert into sluice.gauges default values on conflict do nothing;
