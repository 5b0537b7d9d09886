-- The ledger: what is true about every run. Private: nothing of it is exposed over the Data API.
-- Safe to run again. Needs no superuser and no extension.

set local lock_timeout = '5s';

create schema if not exists sluice;
comment on schema sluice is 'Sluice''s ledger. Private: reach it through the services, or as the owner.';

-- One execution of a workflow for one subject.
create table if not exists sluice.run (
  id uuid primary key,
  workflow text not null,
  version smallint not null,
  subject text not null,
  resource text not null,
  input jsonb not null default '{}',
  state text not null default 'active' check (state in ('active', 'succeeded', 'dead', 'cancelled')),
  priority smallint not null default 0,
  traceparent text,
  -- The trace that the run was in before its last revival: a revived run begins a new one.
  linked_traceparent text,
  deadline_at timestamptz not null,
  -- Up to when the time that a gate held the run is in `deadline_at` already.
  deadline_from timestamptz not null default now(),
  -- A cancellation is asked for here and happens at once, or at the settle of the step that is running.
  cancel_by text,
  cancel_reason text,
  -- When somebody asked for it: the sign-up's own moment.
  requested_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  ended_at timestamptz,
  constraint run_ended check ((state = 'active') = (ended_at is null)),
  constraint run_cancelled_by check (state <> 'cancelled' or cancel_by is not null)
);

-- At most one unfinished run per subject and workflow: starting again joins it.
create unique index if not exists run_one_unfinished
  on sluice.run (workflow, subject)
  where state in ('active', 'dead');
create index if not exists run_by_subject on sluice.run (subject, created_at desc);
create index if not exists run_by_resource on sluice.run (resource, created_at) where state = 'active';
create index if not exists run_deadline on sluice.run (deadline_at) where state = 'active';
create index if not exists run_ended_at on sluice.run (ended_at) where state in ('succeeded', 'cancelled');

-- One step of a run. In state `due` the row is the outbox entry that the relay moves to Redis. Without a moment
-- (due_at is null) it waits: for an earlier step, or for its run's turn on the resource.
create table if not exists sluice.step (
  run_id uuid not null references sluice.run (id) on delete cascade,
  position smallint not null,
  name text not null,
  state text not null default 'due'
    check (state in ('due', 'dispatched', 'running', 'succeeded', 'dead', 'cancelled')),
  priority smallint not null default 0,
  token bigint,
  due_at timestamptz,
  dispatched_at timestamptz,
  started_at timestamptz,
  lease_until timestamptz,
  worker text,
  failures integer not null default 0 check (failures >= 0),
  crashes integer not null default 0 check (crashes >= 0),
  send_backs integer not null default 0 check (send_backs >= 0),
  defers integer not null default 0 check (defers >= 0),
  attempts integer not null default 0 check (attempts >= 0),
  output jsonb,
  error text,
  primary key (run_id, position),
  constraint step_token check ((state in ('dispatched', 'running')) = (token is not null)),
  constraint step_lease check ((state = 'running') = (lease_until is not null)),
  constraint step_worker check (state <> 'running' or worker is not null)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);

-- One index per question that the relay asks all the time; each holds live rows only.
create index if not exists step_due on sluice.step (name, priority, due_at) where state = 'due';
create index if not exists step_dispatched on sluice.step (dispatched_at) where state = 'dispatched';
create index if not exists step_running on sluice.step (lease_until) where state = 'running';
create index if not exists step_outstanding on sluice.step (name) where state in ('dispatched', 'running');

-- Every attempt that ended, and how.
create table if not exists sluice.attempt (
  id bigint generated always as identity primary key,
  run_id uuid not null references sluice.run (id) on delete cascade,
  position smallint not null,
  step text not null,
  token bigint not null,
  worker text not null,
  started_at timestamptz not null,
  ended_at timestamptz not null default now(),
  outcome text not null
    check (outcome in ('succeeded', 'failed', 'deferred', 'crashed', 'sent_back', 'refused', 'cancelled')),
  class text,
  http_status smallint,
  error text check (octet_length(error) <= 4096),
  note text,
  trace_id text,
  span_id text
);
create index if not exists attempt_of_run on sluice.attempt (run_id, id);
-- The same attempt cannot end twice.
create unique index if not exists attempt_once on sluice.attempt (run_id, position, token);

-- Announcements, published at least once and in order within a run. One that is not published outlives its run.
create table if not exists sluice.event (
  id uuid primary key default gen_random_uuid(),
  run_id uuid not null,
  sequence integer not null,
  routing_key text not null,
  payload jsonb not null,
  traceparent text,
  created_at timestamptz not null default now(),
  claimed_by text,
  claimed_until timestamptz,
  published_at timestamptz,
  unique (run_id, sequence)
);
create index if not exists event_unpublished on sluice.event (created_at) where published_at is null;
create index if not exists event_published on sluice.event (published_at) where published_at is not null;

-- A run that needs a person.
create table if not exists sluice.dead_letter (
  id bigint generated always as identity primary key,
  run_id uuid not null references sluice.run (id) on delete cascade,
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

-- What runs work on, and which run's turn it is. `busy_until`: a call that creates or deletes may be under way at the
-- API until then; nobody else touches the name. `doubted_at`: a call outlived its lease and may have met another one there;
-- the instance is looked at again once its run has succeeded.
create table if not exists sluice.resource (
  name text primary key,
  run_id uuid references sluice.run (id) on delete set null,
  busy_until timestamptz,
  busy_token bigint,
  doubted_at timestamptz
);
-- Whose turn ends when a run goes.
create index if not exists resource_turn on sluice.resource (run_id) where run_id is not null;
create index if not exists resource_doubted on sluice.resource (doubted_at) where doubted_at is not null;

-- The name and token that are ours, per subject. The public row is a projection of this one and never an input.
create table if not exists sluice.instance (
  subject text primary key,
  name text not null unique,
  token text not null,
  status text not null default 'creating'
    check (status in ('creating', 'disconnected', 'connecting', 'connected', 'error')),
  webhook_url text,
  qr_code text,
  qr_at timestamptz,
  paired_at timestamptz,
  phone_number text,
  -- When a create was first claimed: from then on a worker reads back before it creates.
  create_claimed_at timestamptz,
  -- When it was taken over from the set-up before us: then its name is its subject's own, whatever it is.
  imported_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

-- What may be dispatched. Scope `step`: one row per queue, and the lock that serialises its dispatch.
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
  -- The run that may pass a half-open breaker. The next probe is made from `probe_at` on; whoever makes it moves that on.
  probe_run uuid,
  probe_at timestamptz,
  probes integer not null default 0,
  -- When it was last opened again: its backlog is let go slowly at first.
  reopened_at timestamptz,
  updated_at timestamptz not null default now(),
  primary key (scope, name),
  constraint gate_breaker check ((breaker = 'closed') = (breaker_cause is null))
);

-- When a gate was closed, and why: that time does not count towards the deadlines of the runs behind it.
create table if not exists sluice.closure (
  scope text not null,
  name text not null,
  cause text not null check (cause in ('pause', 'hold', 'breaker')),
  closed_at timestamptz not null,
  opened_at timestamptz,
  primary key (scope, name, cause, closed_at),
  foreign key (scope, name) references sluice.gate on delete cascade
);

-- When a step waited for its turn behind a rate or concurrency limit: that time does not count either. One row per step and
-- moment, written as the step is dispatched, or as the limit is taken away.
create table if not exists sluice.wait (
  run_id uuid not null references sluice.run (id) on delete cascade,
  position smallint not null,
  due_at timestamptz not null,
  waited_until timestamptz not null,
  primary key (run_id, position, due_at)
);

-- A trigger, so that a gate that a person closes with SQL counts like one that Sluice closes. A gate that was not there was
-- open.
create or replace function sluice.note_closure()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  changed record;
begin
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
      insert into sluice.closure (scope, name, cause, closed_at)
      values (new.scope, new.name, changed.cause, now())
      on conflict (scope, name, cause, closed_at) do update
      set opened_at = null;
    else
      update sluice.closure
      set opened_at = now()
      where scope = new.scope
        and name = new.name
        and cause = changed.cause
        and opened_at is null;
    end if;
  end loop;

  if new.hold_until is null or new.hold_until > coalesce(old.hold_until, '-infinity') then
    update sluice.closure
    set opened_at = coalesce(new.hold_until, now())
    where scope = new.scope
      and name = new.name
      and cause = 'hold'
      and opened_at > now();
    if not found and new.hold_until > now() then
      insert into sluice.closure (scope, name, cause, closed_at, opened_at)
      values (new.scope, new.name, 'hold', now(), new.hold_until)
      on conflict (scope, name, cause, closed_at) do update
      set opened_at = excluded.opened_at;
    end if;
  end if;

  delete from sluice.closure
  where scope = new.scope
    and name = new.name
    and opened_at < now() - interval '90 days';
  return null;
end
$$;
revoke all
  on function sluice.note_closure()
  from public;

create or replace trigger note_closure
  after update of paused_at, hold_until, breaker
  on sluice.gate
  for each row
  when (
    (old.paused_at, old.hold_until, old.breaker) is distinct from (new.paused_at, new.hold_until, new.breaker)
  )
  execute function sluice.note_closure();

create or replace trigger note_closure_at_insert
  after insert
  on sluice.gate
  for each row
  when (new.paused_at is not null or new.hold_until is not null or new.breaker <> 'closed')
  execute function sluice.note_closure();

-- Who waited behind the last limit that is taken away: from now on nothing says that there was one.
create or replace function sluice.note_waits()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into sluice.wait (run_id, position, due_at, waited_until)
  select run_id, position, due_at, now()
  from sluice.step
  where state = 'due'
    and due_at < now()
    and (new.scope = 'host' or name = new.name)
  on conflict (run_id, position, due_at) do update
  set waited_until = excluded.waited_until;
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

-- Public rows that the user's schema refused or had locked: they are written again until they hold.
create table if not exists sluice.projection_pending (
  subject text primary key,
  since timestamptz not null default now(),
  tried_at timestamptz not null default now(),
  tries integer not null default 1,
  -- Intake took the pending queue row and could not write it: it is not taken again, and may be written over.
  taken boolean not null default false,
  error text not null
);

-- Which worker lives. Named after the worker's own name, which is new at every start.
create table if not exists sluice.heartbeat (
  worker text primary key,
  role text not null,
  steps text[] not null default '{}',
  started_at timestamptz not null default now(),
  beat_at timestamptz not null default now(),
  note text
);
create index if not exists heartbeat_beat on sluice.heartbeat (beat_at);

-- The marks by which a wiped, restored or replaced Redis is known; the same stand in Redis. No epoch before the first
-- stamp.
create table if not exists sluice.redis_mark (
  only_row boolean primary key default true check (only_row),
  epoch bigint,
  beat bigint not null default 0,
  beat_at timestamptz not null default now(),
  server text,
  lost_at timestamptz
);
insert into sluice.redis_mark default values on conflict do nothing;

-- How the whole system stands, as the relays' metrics show it: whichever relay is asked takes it anew once it is some
-- seconds old, the others read it here.
create table if not exists sluice.gauges (
  only_row boolean primary key default true check (only_row),
  taken_at timestamptz not null default '-infinity',
  taken jsonb not null default '{}'
);
insert into sluice.gauges default values on conflict do nothing;
