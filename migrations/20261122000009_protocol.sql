-- The protocol: each transition of a run is one function, called in one statement, which is its own
-- transaction. What is read to decide is read in the statement that decides. Every function is safe
-- with any number of callers, and says why.
--
-- Steps are locked first, in key order; what else a transition locks follows them, the app's rows
-- last. A wait for a lock ends before Postgres would look for a deadlock: the caller asks again.
-- What is asked all the time is planned as look-ups by key, whatever the statistics say of a young
-- table. May be run again at any time.

set local lock_timeout = '5s';

-- Gates -------------------------------------------------------------------------------------------

-- How each gate stands now. Every question about a gate reads this view. Only `sluice.admit` asks
-- the same of the rows themselves: it has them locked, and its moment is later than the
-- statement's.
create or replace view sluice.gate_now as
  select
    scope,
    name,
    paused_at is not null or coalesce(hold_until > now(), false) or breaker = 'open' as closed,
    breaker = 'half_open' as half_open,
    probe_run,
    rate is not null
      or concurrency is not null
      -- What waited behind a host is let go slowly at first.
      or (scope = 'host' and coalesce(greatest(reopened_at, hold_until) > now() - interval '6 seconds', false)) as limited,
    case
      when paused_at is not null then 'paused by ' || coalesce(paused_by, 'somebody')
      when hold_until > now() then 'held until ' || to_char(hold_until at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
        || coalesce(': ' || hold_reason, '')
      when breaker = 'open' then breaker_reason
      when breaker = 'half_open' then 'the breaker lets one run through at a time'
    end as reason
  from sluice.gate;

-- How the gates before a step stand together. `passes`: none is closed. Of a half-open breaker only
-- `probe_run` passes.
create or replace function sluice.gate_state(
  workflow text,
  step text,
  host text,
  out passes boolean,
  out half_open boolean,
  out probe_run uuid,
  out limited boolean,
  out reason text
)
language sql
stable
set search_path = ''
as $$
  select
    not coalesce(bool_or(gate.closed), false),
    coalesce(bool_or(gate.half_open), false),
    (array_agg(gate.probe_run) filter (where gate.half_open))[1],
    coalesce(bool_or(gate.limited), false),
    (array_agg(gate.reason order by gate.closed desc, gate.scope) filter (where gate.reason is not null))[1]
  from sluice.gate_now as gate
  where (gate.scope = 'workflow' and gate.name = gate_state.workflow)
    or (gate.scope = 'step' and gate.name = gate_state.step)
    or (gate.scope = 'host' and gate.name = gate_state.host)
$$;

-- Whether a step of that workflow that became due may be pushed at once. Where a gate before it is
-- closed, or lets steps through one after another, the scan pushes it when its turn has come.
create or replace function sluice.may_push(workflow text, step text)
returns boolean
language sql
stable
set search_path = ''
as $$
  select gates.passes and not gates.half_open and not gates.limited
  from sluice.gate_state(
    may_push.workflow,
    may_push.step,
    (
      select definition.host
      from sluice.definition
      where definition.step = may_push.step
        and definition.workflow = may_push.workflow
      order by definition.version desc
      limit 1
    )
  ) as gates
$$;

-- The rate that holds now: its own, or, of a host that was closed until lately, the slow start's
-- (20 a second, doubling each second for six). Null: none.
create or replace function sluice.rate_now(gate sluice.gate)
returns double precision
language sql
volatile
set search_path = ''
as $$
  select least(gate.rate, case when gate.scope = 'host' and since >= 0 and since < 6 then 20 * 2 ^ since end)
  from (
    select extract(epoch from clock_timestamp() - greatest(gate.reopened_at, gate.hold_until))::double precision as since
  ) as moment
$$;

-- How many starts the gate's rate has in store now: at most one second's worth. Null: no rate. A
-- slow start's rate has grown since the last start: what held half-way gives no more than its
-- curve.
create or replace function sluice.allowance_now(gate sluice.gate)
returns double precision
language sql
volatile
set search_path = ''
as $$
  select least(gate.allowance + least(rate, half_way) * elapsed, greatest(rate, 1))
  from (
    select
      sluice.rate_now(gate) as rate,
      case when gate.scope = 'host' and since - elapsed / 2 between 0 and 6 then 20 * 2 ^ (since - elapsed / 2) end as half_way,
      elapsed
    from (
      select
        greatest(extract(epoch from clock_timestamp() - gate.refilled_at)::double precision, 0) as elapsed,
        extract(epoch from clock_timestamp() - greatest(gate.reopened_at, gate.hold_until))::double precision as since
    ) as moment
  ) as rates
  where rate is not null
$$;

-- How many steps behind a gate are running.
create or replace function sluice.running_behind(scope text, name text)
returns bigint
language sql
stable
set search_path = ''
as $$
  select count(*)
  from sluice.step
  where step.state = 'running'
    and (
      (running_behind.scope = 'step' and step.name = running_behind.name)
      or (running_behind.scope = 'host' and step.name in (
        select definition.step
        from sluice.definition
        where definition.host = running_behind.name
      ))
    )
$$;

-- Whether a step may start now where a gate before it is not plain: half-open, limited or closed.
-- Charges the start to the gates, so the caller, who holds the step's lock, must start it. Safe
-- with any number of callers: the gates are locked, in key order.
create or replace function sluice.admit(workflow text, step text, host text, run uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  gate sluice.gate;
begin
  for gate in
    select *
    from sluice.gate as before
    where (before.scope = 'workflow' and before.name = admit.workflow)
      or (before.scope = 'step' and before.name = admit.step)
      or (before.scope = 'host' and before.name = admit.host)
    order by before.scope, before.name
    for no key update
  loop
    if gate.paused_at is not null or gate.hold_until > clock_timestamp() or gate.breaker = 'open' then
      return false;
    end if;
    if gate.breaker = 'half_open' and gate.probe_run is distinct from admit.run and (
      gate.probe_at > clock_timestamp()
      or exists (select from sluice.step as other where other.run_id = gate.probe_run and other.state = 'running')
      -- A run that has not failed yet goes first, for a while.
      or (admit.run = any (gate.failing_runs) and gate.breaker_at > clock_timestamp() - interval '2 seconds')
    ) then
      return false;
    end if;
    if sluice.allowance_now(gate) < 1 then
      return false;
    end if;
    if sluice.running_behind(gate.scope, gate.name) >= gate.concurrency then
      return false;
    end if;
  end loop;

  update sluice.gate as before
  set allowance = case
      when sluice.rate_now(before) is null then before.allowance
      else sluice.allowance_now(before) - 1
    end,
    refilled_at = clock_timestamp(),
    probe_at = case
      when before.breaker = 'half_open' and before.probe_run is distinct from admit.run
        then clock_timestamp() + interval '1 second'
      else before.probe_at
    end,
    probe_run = case when before.breaker = 'half_open' then admit.run else before.probe_run end
  where (
      (before.scope = 'workflow' and before.name = admit.workflow)
      or (before.scope = 'step' and before.name = admit.step)
      or (before.scope = 'host' and before.name = admit.host)
    )
    and (before.breaker = 'half_open' or sluice.rate_now(before) is not null);
  return true;
end
$$;

-- Projections -------------------------------------------------------------------------------------

-- Lets a workflow write the app's own rows for these runs, in the caller's transaction. What the
-- app's schema refuses or has locked undoes nothing: it is kept as pending and written again
-- (`again`: it was kept before). Whoever in the app waits for a row that is written here waits as
-- long as this waits for others: a twentieth of a second, and once only. Where all together fail,
-- each is tried on its own, and the projection finds sluice.singly = on.
create or replace function sluice.project(workflow text, runs uuid[], taken boolean default false, again boolean default false)
returns void
language plpgsql
set search_path = ''
set lock_timeout = '50ms'
as $$
#variable_conflict use_column
declare
  -- No setting of the function's own: an owner who is no superuser may not give it one of ours.
  projecting_before constant text := coalesce(current_setting('sluice.projecting', true), '');
  target text;
  one uuid;
  refusal text;
  -- Of settings that are set: an assignment costs less than a `perform`.
  value text;
begin
  select known.projection
  into target
  from sluice.workflow as known
  where known.name = project.workflow;
  if target is null or cardinality(runs) = 0 then
    return;
  end if;

  value := set_config('sluice.taking', case when taken then 'on' else '' end, true);
  value := set_config('sluice.projecting', 'on', true);
  if not again then
    begin
      execute format('select %s($1)', target) using runs;
      value := set_config('sluice.projecting', projecting_before, true);
      return;
    exception
      when others then
        refusal := sqlstate;
    end;
  end if;

  -- Who met a lock has waited for it once: the neighbours do not wait again.
  if again or refusal = '55P03' then
    value := set_config('lock_timeout', '1ms', true);
  end if;
  value := set_config('sluice.singly', 'on', true);
  foreach one in array runs loop
    begin
      execute format('select %s($1)', target) using array[one];
    exception
      when others then
        insert into sluice.projection_pending as pending (workflow, subject, run_id, taken, error)
        select run.workflow, run.subject, run.id, project.taken, sqlerrm
        from sluice.run
        where run.id = one
        on conflict on constraint projection_pending_pkey do update
        set run_id = excluded.run_id, tried_at = now(), tries = pending.tries + 1, error = excluded.error,
          taken = pending.taken or excluded.taken;
    end;
  end loop;
  value := set_config('sluice.singly', '', true);
  value := set_config('sluice.projecting', projecting_before, true);
end
$$;

-- Writes up to `most` pending rows again. How many still wait. Safe with any number of callers:
-- each takes other rows.
create or replace function sluice.project_pending(most integer)
returns bigint
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  kept record;
begin
  if not exists (select from sluice.projection_pending) then
    return 0;
  end if;
  for kept in
    select pending.workflow, pending.subject, pending.taken, pending.tries, (
        select run.id
        from sluice.run
        where run.subject = pending.subject
          and run.workflow = pending.workflow
        order by run.id desc
        limit 1
      ) as run
    from sluice.projection_pending as pending
    where pending.tried_at < now() - least(interval '1 minute', interval '0.2 second' * pending.tries)
    order by pending.workflow, pending.subject
    limit most
    for update skip locked
  loop
    if kept.run is not null then
      perform sluice.project(kept.workflow, array[kept.run], kept.taken, true);
    end if;
    delete from sluice.projection_pending as pending
    where pending.workflow = kept.workflow
      and pending.subject = kept.subject
      and pending.tries = kept.tries;
  end loop;
  return (select count(*) from (select from sluice.projection_pending limit 10000) as pending);
end
$$;

-- Starting ----------------------------------------------------------------------------------------

-- What a request came to: what a relay must know to tell of it and to push it.
do $$
begin
  if to_regtype('sluice.taken') is null then
    create type sluice.taken as (
      -- started, revived, joined, refused
      outcome text,
      run_id uuid,
      workflow text,
      subject text,
      traceparent text,
      linked text,
      age double precision,
      -- The step that is due now, where one is.
      step text,
      step_position smallint,
      generation integer
    );
  end if;
end
$$;

-- Starts a run for each of these subjects that has no unfinished one of that workflow; says only
-- which it started. Raises where the workflow is not registered or a resource is another subject's.
-- Safe with any number of callers: a partial unique index lets one run be unfinished, and the
-- resource's row decides whose turn it is. In the order of the subjects.
create or replace function sluice.start_runs(
  workflow text,
  subjects text[],
  resources text[],
  inputs jsonb[],
  traceparents text[],
  requested timestamptz[],
  internal boolean default false
)
returns setof sluice.taken
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  known sluice.workflow;
  begun record;
  waiting uuid[] := '{}';
begin
  select * into known
  from sluice.workflow as registered
  where registered.name = start_runs.workflow;
  if not found then
    raise exception 'no workflow is called %', start_runs.workflow
      using errcode = 'invalid_parameter_value', hint = 'a relay or worker that knows the workflow registers it at its start';
  end if;

  for begun in
    with begun as (
      insert into sluice.run
        (id, workflow, version, subject, resource, input, traceparent, asked_traceparent, deadline_at, requested_at, internal,
          events)
      select sluice.new_id(), known.name, known.version, given.subject, given.resource, given.input,
        given.traceparent, given.traceparent, now() + known.deadline,
        -- Who asks again, with a request as old as the first one, is served from now on.
        case
          -- No `exists`: the planner may answer that by reading all runs.
          when (
            select true
            from sluice.run as earlier
            where earlier.subject = given.subject
              and earlier.workflow = known.name
            limit 1
          ) then now()
          else least(coalesce(given.requested_at, now()), now())
        end,
        start_runs.internal, case when start_runs.internal then 0 else 1 end
      from unnest(subjects, resources, inputs, traceparents, requested)
        as given (subject, resource, input, traceparent, requested_at)
      order by given.subject
      on conflict (workflow, subject) where state in ('active', 'dead') do nothing
      returning id, subject, resource, traceparent, requested_at
    ),
    announced as (
      insert into sluice.event (run_id, sequence, type, routing_key, payload, traceparent)
      select begun.id, 1, 'sluice.run.started.v1', known.name || '.started',
        jsonb_build_object(
          'run', begun.id, 'workflow', known.name, 'version', known.version, 'subject', begun.subject,
          'resource', begun.resource, 'requested_at', begun.requested_at
        ),
        begun.traceparent
      from begun
      where not start_runs.internal
    ),
    held as (
      insert into sluice.resource as held (name, subject, workflow, run_id, secret)
      select begun.resource, begun.subject, known.name, begun.id, gen_random_uuid()::text
      from begun
      on conflict (name) do update
      set run_id = coalesce(held.run_id, excluded.run_id)
      returning held.name, held.subject, held.run_id, held.busy_until
    ),
    first as (
      insert into sluice.step (run_id, position, name, priority, due_at)
      select begun.id, 0, known.first_step, known.priority,
        case when held.run_id = begun.id then greatest(now(), held.busy_until) end
      from begun
      join held on held.name = begun.resource
    )
    select begun.*, held.run_id as turn, held.busy_until
    from begun
    left join held
      on held.name = begun.resource
      -- Its owner may have been there, or be a neighbour in the batch.
      and held.subject = begun.subject
  loop
    if begun.turn is null then
      raise exception 'the resource % belongs to another subject than %', begun.resource, begun.subject
        using errcode = 'integrity_constraint_violation';
    elsif begun.turn <> begun.id then
      waiting := waiting || begun.id;
    end if;
    return next row(
      'started', begun.id, known.name, begun.subject, begun.traceparent, null,
      extract(epoch from now() - begun.requested_at)::double precision,
      case when begun.turn = begun.id and coalesce(begun.busy_until <= now(), true) then known.first_step end, 0, 1
    )::sluice.taken;
  end loop;

  if waiting <> '{}' then
    update sluice.run
    set waits = true
    where id = any (waiting);
  end if;
end
$$;

-- Starts a run, or joins the unfinished one of that workflow and subject. Raises as `start_runs`
-- does.
create or replace function sluice.start_run(
  workflow text,
  subject text,
  resource text,
  input jsonb,
  traceparent text,
  requested_at timestamptz,
  internal boolean default false
)
returns sluice.taken
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  started sluice.taken;
  there record;
begin
  for attempt in 1 .. 3 loop
    select * into started
    from sluice.start_runs(
      start_run.workflow, array[start_run.subject], array[start_run.resource], array[start_run.input],
      array[start_run.traceparent], array[start_run.requested_at], start_run.internal
    );
    exit when found;

    select run.id, run.state, run.traceparent, run.linked_traceparent as linked, run.internal
    into there
    from sluice.run
    where run.workflow = start_run.workflow
      and run.subject = start_run.subject
      and run.state in ('active', 'dead');
    if found then
      -- Somebody asks for it now, and is told of it.
      if there.internal and not start_run.internal then
        update sluice.run
        set internal = false
        where id = there.id;
      end if;
      return row(
        case there.state when 'dead' then 'dead' else 'joined' end, there.id, start_run.workflow, start_run.subject,
        there.traceparent, there.linked, null, null, null, null
      )::sluice.taken;
    end if;
    -- It ended between the two: ask again.
  end loop;
  if started is null then
    raise exception 'runs of % for % came and went meanwhile', start_run.workflow, start_run.subject
      using errcode = 'serialization_failure';
  end if;
  return started;
end
$$;

-- Gives the resource to the run that has waited longest, whose current step becomes due. The caller
-- has just ended the turn of another, and with it locked the resource.
create or replace function sluice.give_turn(resource text)
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  next uuid;
  free_at timestamptz;
begin
  -- Locked, so that nobody cancels it meanwhile: a turn that is given to a run which has ended is
  -- nobody's.
  select run.id
  into next
  from sluice.run
  where run.resource = give_turn.resource
    and run.waits
    and run.state = 'active'
  order by run.id
  limit 1
  for no key update;
  if next is null then
    return;
  end if;

  update sluice.resource as held
  set run_id = next
  where held.name = give_turn.resource
    and held.run_id is null
  returning held.busy_until
  into free_at;
  if not found then
    return;
  end if;
  update sluice.run
  set waits = false
  where id = next;
  update sluice.step
  set due_at = greatest(now(), free_at), generation = generation + 1
  where run_id = next
    and state = 'due'
    and due_at is null
    and position = (
      select min(open.position)
      from sluice.step as open
      where open.run_id = next
        and open.state <> 'succeeded'
    );
end
$$;

-- Ends runs, whose rows and steps the caller has locked or is the only one to move: their state,
-- their events, their turns.
create or replace function sluice.end_runs(runs uuid[], to_state text)
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  freed text[];
  waited_for text;
begin
  with ended as (
    update sluice.run
    set state = to_state, ended_at = now(), waits = false,
      -- An internal run's success is announced to nobody.
      events = events + case when internal and to_state = 'succeeded' then 0 else 1 + (
        select count(*)
        from sluice.announcement as own
        where own.workflow = run.workflow
          and own.state = to_state
      )::integer end
    where id = any (runs)
    returning id, workflow, version, subject, resource, internal, events, requested_at, ended_at, cancel_by, cancel_reason,
      traceparent
  ),
  announced as (
    insert into sluice.event (run_id, sequence, type, routing_key, payload, traceparent)
    select ended.id, ended.events - (own.type is not null)::integer + said.after,
      case said.after when 0 then 'sluice.run.' || to_state || '.v1' else own.type end,
      case said.after when 0 then ended.workflow || '.' || to_state else own.routing_key end,
      jsonb_strip_nulls(jsonb_build_object(
        'run', ended.id, 'workflow', ended.workflow, 'version', ended.version, 'subject', ended.subject,
        'resource', ended.resource, 'requested_at', ended.requested_at, 'ended_at', ended.ended_at,
        'letter', letter.id, 'step', letter.step, 'reason', letter.reason, 'class', letter.class, 'error', letter.error,
        'by', case to_state when 'cancelled' then ended.cancel_by end,
        'note', case to_state when 'cancelled' then ended.cancel_reason end
      )),
      ended.traceparent
    from ended
    left join sluice.dead_letter as letter
      on letter.run_id = ended.id
      and letter.resolved_at is null
    left join sluice.announcement as own
      on own.workflow = ended.workflow
      and own.state = to_state
    join (values (0), (1)) as said (after) on said.after = 0 or own.type is not null
    where not (ended.internal and to_state = 'succeeded')
  ),
  free as (
    update sluice.resource as held
    set run_id = null
    from ended
    where held.name = ended.resource
      and held.run_id = ended.id
    returning held.name
  )
  select array_agg(free.name order by free.name)
  into freed
  from free;

  -- Nothing of a cancelled run waits any more.
  if to_state = 'cancelled' then
    update sluice.step
    set state = 'cancelled', due_at = null
    where run_id = any (runs)
      and state in ('due', 'dead');
  end if;

  -- Looked for after the resources are in hand: who came to wait meanwhile has let go of them.
  for waited_for in
    select name
    from unnest(freed) as name
    where exists (
      select from sluice.run
      where run.resource = name
        and run.waits
        and run.state = 'active'
    )
  loop
    perform sluice.give_turn(waited_for);
  end loop;
end
$$;

-- Gives a dead run a fresh budget and a fresh deadline; finished steps keep their outputs. Its
-- failed step is due at the run's turn. Whether it was dead.
create or replace function sluice.revive_run(run uuid, actor text, note text)
returns boolean
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  revived sluice.run;
begin
  perform
  from sluice.step
  where run_id = revive_run.run
    and state = 'dead'
  for no key update;

  update sluice.run as dead
  set state = 'active', ended_at = null, waits = true, deadline_from = now(), cancel_by = null, cancel_reason = null,
    internal = false,
    linked_traceparent = coalesce(dead.traceparent, dead.linked_traceparent), traceparent = null, asked_traceparent = null,
    revived_at = now(), span_waits = false,
    events = dead.events + 1,
    deadline_at = now() + coalesce(
      (
        select definition.deadline
        from sluice.definition
        where definition.workflow = dead.workflow
          and definition.version = dead.version
          and definition.position = 0
      ),
      interval '1 day'
    )
  where dead.id = revive_run.run
    and dead.state = 'dead'
  returning *
  into revived;
  if not found then
    return false;
  end if;

  update sluice.step
  set state = 'due', due_at = null, generation = generation + 1, failures = 0, crashes = 0, send_backs = 0, defers = 0
  where run_id = revived.id
    and state = 'dead';
  update sluice.dead_letter
  set resolved_at = now(), resolution = 'revived', resolved_by = revive_run.actor, note = revive_run.note
  where run_id = revived.id
    and resolved_at is null;
  insert into sluice.audit (actor, action, subject, detail)
  values (
    revive_run.actor, 'run.revive', revived.subject, jsonb_build_object('run', revived.id, 'note', revive_run.note)
  );
  insert into sluice.event (run_id, sequence, type, routing_key, payload)
  values (
    revived.id, revived.events, 'sluice.run.revived.v1', revived.workflow || '.revived',
    jsonb_strip_nulls(jsonb_build_object(
      'run', revived.id, 'workflow', revived.workflow, 'version', revived.version, 'subject', revived.subject,
      'resource', revived.resource, 'requested_at', revived.requested_at, 'by', revive_run.actor, 'note', revive_run.note
    ))
  );
  -- Locked first, so that whoever ends another run there gives this one its turn, or has done.
  perform
  from sluice.resource
  where name = revived.resource
  for no key update;
  perform sluice.give_turn(revived.resource);
  return true;
end
$$;

-- Revives a dead run: its state after it, or null where there is none.
create or replace function sluice.revive(run uuid, actor text, note text, out before text)
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
begin
  select known.state
  into before
  from sluice.run as known
  where known.id = revive.run;
  if before = 'dead' and sluice.revive_run(revive.run, actor, note) then
    perform sluice.project(known.workflow, array[known.id])
    from sluice.run as known
    where known.id = revive.run;
  elsif before = 'dead' then
    select known.state
    into before
    from sluice.run as known
    where known.id = revive.run;
  end if;
end
$$;

-- Ends an active or dead run that a person wants ended (`dead_only`: a dead one): at once, or at
-- the settle of the step that is running. Returns `yes`, `at_settle`, the state in which it cannot
-- be ended, or null. The steps are locked first, so that a claim or a settle comes before this or
-- after it; and again, as long as a settle that was waited for has made a new one.
create or replace function sluice.cancel(run uuid, actor text, note text, dead_only boolean default false, out answer text)
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  ended sluice.run;
  steps bigint;
  steps_before bigint;
begin
  loop
    select count(*)
    into steps
    from (
      select
      from sluice.step
      where run_id = cancel.run
      order by position
      for no key update
    ) as locked;
    exit when steps = steps_before;
    steps_before := steps;
  end loop;
  select * into ended
  from sluice.run as known
  where known.id = cancel.run
  for no key update;
  if not found then
    return;
  end if;
  if ended.state <> 'dead' and (ended.state <> 'active' or dead_only) then
    answer := ended.state;
    return;
  end if;

  -- Who asked first is who did it.
  update sluice.run
  set cancel_by = coalesce(cancel_by, cancel.actor),
    cancel_reason = case when cancel_by is null then cancel.note else cancel_reason end
  where id = ended.id;
  insert into sluice.audit (actor, action, subject, detail)
  values (
    cancel.actor, case ended.state when 'dead' then 'run.discard' else 'run.cancel' end, ended.subject,
    jsonb_build_object('run', ended.id, 'note', cancel.note)
  );
  update sluice.step
  set cancel_asked = true
  where run_id = ended.id
    and state = 'running';
  if found then
    answer := 'at_settle';
  else
    update sluice.dead_letter
    set resolved_at = now(), resolution = 'discarded', resolved_by = cancel.actor, note = cancel.note
    where run_id = ended.id
      and resolved_at is null;
    perform sluice.end_runs(array[ended.id], 'cancelled');
    update sluice.run
    set span_waits = true
    where id = ended.id
      and ended.state = 'active';
    answer := 'yes';
  end if;
  perform sluice.project(ended.workflow, array[ended.id]);
end
$$;

-- Intake ------------------------------------------------------------------------------------------

-- Asks for a run, in the caller's own transaction: a relay starts it once that has committed, or
-- joins the unfinished one of that subject. `resource` is what it works on (by default the
-- subject's own). Refuses a workflow that no build has registered.
create or replace function sluice.start(
  workflow text,
  subject text,
  input jsonb default '{}',
  resource text default null
)
returns void
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
  if not exists (select from sluice.workflow as known where known.name = start.workflow) then
    raise exception 'no workflow is called %', start.workflow
      using errcode = 'invalid_parameter_value', hint = 'a relay or worker that knows the workflow registers it at its start';
  end if;
  if coalesce(length(start.subject), 0) not between 1 and 200 or start.subject ~ '[\x01-\x1f\x7f-\x9f]' then
    raise exception 'subject % is not valid: 1 to 200 characters, none of them a control character', quote_nullable(left(start.subject, 80))
      using errcode = 'invalid_parameter_value';
  end if;
  if length(coalesce(start.resource, start.workflow || ':' || start.subject)) not between 1 and 255
    or start.resource ~ '[\x01-\x1f\x7f-\x9f]'
  then
    raise exception 'resource % is not valid: 1 to 255 characters, none of them a control character',
      quote_nullable(left(coalesce(start.resource, start.workflow || ':' || start.subject), 80))
      using errcode = 'invalid_parameter_value';
  end if;
  insert into sluice.request (workflow, subject, resource, input, traceparent, requested_by)
  values (
    start.workflow, start.subject, start.resource, coalesce(start.input, '{}'),
    substring(current_setting('app.traceparent', true) from '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'),
    sluice.actor()
  );
  perform sluice.wake_intake();
end
$$;

-- Takes up to `most` requests of the inbox. Safe with any number of callers: each takes other rows.
create or replace function sluice.take_requests(most integer)
returns setof sluice.taken
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  asked sluice.request;
  taken sluice.taken;
  started jsonb := '{}';
  changed record;
begin
  for asked in
    select *
    from (
      select *
      from sluice.request
      where refused_at is null
      order by id
      limit most
      for update skip locked
    ) as waiting
    order by waiting.workflow, waiting.subject, waiting.id
  loop
    begin
      taken := sluice.start_run(
        asked.workflow, asked.subject, coalesce(asked.resource, asked.workflow || ':' || asked.subject), asked.input,
        asked.traceparent, asked.requested_at
      );
      delete from sluice.request
      where id = asked.id;
      if taken.outcome = 'started' then
        started := jsonb_set(
          started, array[taken.workflow], coalesce(started -> taken.workflow, '[]') || to_jsonb(taken.run_id)
        );
      elsif taken.outcome = 'dead' then
        taken.outcome := 'joined';
      end if;
    exception
      when data_exception or integrity_constraint_violation then
        update sluice.request
        set refused_at = now(), error = sqlerrm
        where id = asked.id;
        taken := row('refused', null, asked.workflow, asked.subject, null, null, null, null, null, null)::sluice.taken;
    end;
    return next taken;
  end loop;

  -- The app's rows last, so that nothing else is waited for while they are locked.
  for changed in
    select entry.key as workflow, array(select jsonb_array_elements_text(entry.value)::uuid order by 1) as runs
    from jsonb_each(started) as entry
    order by entry.key
  loop
    perform sluice.project(changed.workflow, changed.runs);
  end loop;
end
$$;

-- One round of intake: the inbox, and up to `most` rows of each workflow's own source.
create or replace function sluice.intake(most integer)
returns setof sluice.taken
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  plain constant boolean := not exists (
    select from sluice.gate_now as gate where gate.closed or gate.half_open or gate.limited
  );
  source text;
  taken sluice.taken;
begin
  for source in
    select asked.source
    from (
      select known.source, known.name
      from sluice.workflow as known
      where known.source is not null
      union all
      select 'sluice.take_requests', null
      where exists (select from sluice.request where refused_at is null)
    ) as asked
    order by asked.name nulls last
  loop
    if plain then
      return query execute format('select * from %s($1)', source) using most;
      continue;
    end if;
    for taken in execute format('select * from %s($1)', source) using most loop
      -- What a gate holds, or lets through one after another, is the scan's to push.
      if taken.step is not null and not sluice.may_push(taken.workflow, taken.step) then
        taken.step := null;
      end if;
      return next taken;
    end loop;
  end loop;
end
$$;

-- Dispatch ----------------------------------------------------------------------------------------

-- What is due now in these queues and let through by its gates: the most urgent first, then the one
-- due longest, up to `most` of each. `capacity`: how many hints of the queue may lie in Redis,
-- where a limit or a half-open breaker stands before it. `traced`: the caller begins traces, and
-- leaves runs of the last 200 ms to their intake, which is about to keep their trace. Reads only.
create or replace function sluice.waiting(queues text[], most integer, traced boolean default false)
returns table (
  queue text,
  run_id uuid,
  step_position smallint,
  generation integer,
  workflow text,
  traceparent text,
  linked text,
  capacity integer
)
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
declare
  gates record;
  gate sluice.gate;
  api text;
  room double precision;
  closed text[];
begin
  select coalesce(array_agg(shut.name), '{}')
  into closed
  from sluice.gate_now as shut
  where shut.scope = 'workflow'
    and shut.closed;

  foreach queue in array queues loop
    continue when not exists (
      select from sluice.step as due
      where due.name = queue
        and due.state = 'due'
        and due.due_at <= now()
    );
    api := (select definition.host from sluice.definition where definition.step = queue order by definition.version desc limit 1);
    gates := sluice.gate_state(null, queue, api);
    continue when not gates.passes;

    capacity := case when gates.half_open then 1 end;
    if gates.limited then
      for gate in
        select *
        from sluice.gate as before
        where (before.scope = 'step' and before.name = queue)
          or (before.scope = 'host' and before.name = api)
      loop
        room := least(
          sluice.allowance_now(gate),
          gate.concurrency - sluice.running_behind(gate.scope, gate.name)
        );
        if room is not null then
          capacity := least(capacity, greatest(floor(room), 0)::integer);
        end if;
      end loop;
      continue when capacity = 0;
    end if;

    return query
      select queue, due.run_id, due.position, due.generation, run.workflow, run.traceparent, run.linked_traceparent, capacity
      from sluice.step as due
      join sluice.run on run.id = due.run_id
      where due.name = queue
        and due.state = 'due'
        and due.due_at <= now()
        and not (traced and run.created_at > now() - interval '200 milliseconds')
        and (closed = '{}' or run.workflow <> all (closed))
        and (
          not gates.half_open
          or not exists (
            select from sluice.gate as half
            where half.scope = 'host'
              and half.name = api
              and half.breaker = 'half_open'
              and half.breaker_at > now() - interval '2 seconds'
              and due.run_id = any (half.failing_runs)
          )
        )
      order by due.priority, due.due_at
      limit case when capacity is null then most else least(most, capacity * 2 + 10) end;
  end loop;
end
$$;

-- Attempts ----------------------------------------------------------------------------------------

-- Ends runs whose subject is gone before their first step makes anything for it. Asks the
-- workflow's own function, once for all of them. Safe with any number of callers: the steps are
-- locked, in key order.
create or replace function sluice.end_gone(runs uuid[], positions smallint[], generations integer[])
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  asked record;
  subjects_gone text[];
  ended uuid[];
begin
  for asked in
    select known.name, known.gone, array_agg(run.subject) as subjects
    from unnest(runs, positions) as given (run_id, "position")
    join sluice.run on run.id = given.run_id
    join sluice.workflow as known on known.name = run.workflow
    where given.position = 0
      and known.gone is not null
    group by known.name, known.gone
  loop
    execute format('select %s($1)', asked.gone)
    into subjects_gone
    using asked.subjects;
    continue when subjects_gone is null or subjects_gone = '{}';

    ended := array(
      select due.run_id
      from unnest(runs, positions, generations) as given (run_id, "position", generation)
      join sluice.run on run.id = given.run_id
      join sluice.definition
        on definition.workflow = run.workflow
        and definition.version = run.version
        and definition.position = 0
        and definition.exclusive
      join sluice.step as due
        on due.run_id = given.run_id
        and due.position = 0
        and due.generation = given.generation
        and due.state = 'due'
        and due.due_at <= now()
      where given.position = 0
        and run.workflow = asked.name
        and run.subject = any (subjects_gone)
      order by due.run_id
      for no key update of due
    );
    update sluice.run
    set cancel_by = coalesce(cancel_by, 'sluice'),
      cancel_reason = case when cancel_by is null then 'its subject is gone' else cancel_reason end,
      span_waits = true
    where id = any (ended);
    insert into sluice.audit (actor, action, subject, detail)
    select 'sluice', 'run.cancel', run.subject, jsonb_build_object('run', run.id, 'note', 'its subject is gone')
    from sluice.run
    where run.id = any (ended)
    order by run.id;
    perform sluice.end_runs(ended, 'cancelled');
    perform sluice.project(asked.name, ended);
  end loop;
end
$$;

-- Takes due steps in hand: from `due` to `running`, each under its token, with a lease. Needs the
-- generation that is due, its moment, a quiet resource, a definition that the caller's build knows
-- (`workflow:version`), and gates that pass; else the step stays as it is and is pushed again
-- later. A step that may create or delete keeps its resource busy until the lease's end. A run
-- whose subject is gone before its first such step is cancelled here, and the claim finds its step
-- stale.
--
-- `contexts` and `parents` are the span that each attempt would be and the one above it, where it
-- is recorded: kept with the step, for a rescue. Such an attempt is told what the step has waited
-- for.
--
-- Safe with any number of callers: the update of the step's row is guarded by state and generation,
-- and of two at once the second finds it running. Whose turn a resource is needs no look: a step
-- that waits for its turn has no moment.
create or replace function sluice.claim(
  claimant text,
  known text[],
  runs uuid[],
  positions smallint[],
  generations integer[],
  tokens bigint[],
  contexts text[],
  parents text[]
)
returns table (
  at integer,
  -- yes, gate_closed, resource_busy, unknown_definition, stale
  answer text,
  workflow text,
  version smallint,
  step text,
  subject text,
  resource text,
  secret text,
  memory jsonb,
  exclusive_before boolean,
  input jsonb,
  failures integer,
  crashes integer,
  send_backs integer,
  defers integer,
  attempts integer,
  earlier_send_backs integer[],
  traceparent text,
  age double precision,
  waited jsonb
)
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  -- A parameter to the statements, so that none of their plans takes the index of all due steps for
  -- one step's row.
  awaited constant text := 'due';
  plain constant boolean := not exists (
    select from sluice.gate_now as gate where gate.closed or gate.half_open or gate.limited
  );
  -- All at once; one by one where a gate counts.
  most constant integer := case when plain then greatest(cardinality(runs), 1) else 1 end;
  asked record;
  may boolean := true;
  claimed integer[] := '{}';
begin
  if 0 = any (positions) then
    perform sluice.end_gone(runs, positions, generations);
  end if;

  for lowest in 1 .. cardinality(runs) by most loop
    if not plain then
      select run.workflow, due.name, definition.host, due.due_at
      into asked
      from sluice.step as due
      join sluice.run on run.id = due.run_id
      join sluice.resource as held on held.name = run.resource
      join sluice.definition
        on definition.workflow = run.workflow
        and definition.version = run.version
        and definition.position = due.position
        and definition.step = due.name
      where due.run_id = runs[lowest]
        and due.position = positions[lowest]
        and due.generation = generations[lowest]
        and due.state = awaited
        and due.due_at <= now()
        and (held.busy_until is null or held.busy_until <= now())
        and run.workflow || ':' || run.version = any (known)
      for no key update of due;
      may := found and sluice.admit(asked.workflow, asked.name, asked.host, runs[lowest]);
      if may and asked.due_at < now() - interval '1 second'
        and (sluice.gate_state(asked.workflow, asked.name, asked.host)).limited
      then
        insert into sluice.closed_time (scope, name, cause, closed_at, passed_at)
        values ('run', runs[lowest]::text, 'limit', asked.due_at, now())
        on conflict (scope, name, cause, closed_at) do update
        set passed_at = excluded.passed_at;
      end if;
    end if;
    continue when not may;

    answer := 'yes';
    for
      at, workflow, version, step, subject, resource, secret, memory, exclusive_before, input, failures, crashes, send_backs,
      defers, attempts, earlier_send_backs, traceparent, age, waited
    in
      with given as (
        select *
        from unnest(
          runs[lowest : lowest + most - 1], positions[lowest : lowest + most - 1], generations[lowest : lowest + most - 1],
          tokens[lowest : lowest + most - 1], contexts[lowest : lowest + most - 1], parents[lowest : lowest + most - 1]
        ) with ordinality as given (run_id, "position", generation, token, context, parent, number)
      ),
      taken as (
        update sluice.step as due
        set state = 'running', token = given.token, worker = claimant, started_at = now(), attempts = due.attempts + 1,
          lease_until = now() + definition.lease, traceparent = given.context, parent_span = given.parent
        from given
        join sluice.run on run.id = given.run_id
        join sluice.resource as held on held.name = run.resource
        join sluice.definition
          on definition.workflow = run.workflow
          and definition.version = run.version
          -- The cast keeps plans from looking the step up by its definition's position alone.
          and definition.position = given.position::integer
        where due.run_id = given.run_id
          and due.position = given.position
          and due.generation = given.generation
          and due.state = awaited
          and due.due_at <= now()
          and definition.step = due.name
          and (held.busy_until is null or held.busy_until <= now())
          and run.workflow || ':' || run.version = any (known)
        returning given.number, run.workflow, run.version, due.name, run.subject, run.resource, held.secret, held.memory,
          held.exclusive_at is not null as exclusive_before,
          case
            when due.position = 0 then run.input
            else coalesce((
              select previous.output
              from sluice.step as previous
              where previous.run_id = due.run_id
                and previous.position = due.position - 1
            ), 'null')
          end as input,
          due.failures, due.crashes, due.send_backs, due.defers, due.attempts,
          case
            when due.position = 0 then '{}'
            else array(
              select earlier.send_backs
              from sluice.step as earlier
              where earlier.run_id = due.run_id
                and earlier.position < due.position
              order by earlier.position
            )
          end as earlier_send_backs,
          run.traceparent, extract(epoch from now() - run.requested_at)::double precision as age,
          case
            when given.context is not null and (due.generation > 1 or due.due_at < now() - interval '100 milliseconds')
              then sluice.waited(due.run_id, due.name, due.due_at)
          end as waited,
          definition.exclusive, due.token, due.lease_until
      ),
      quiet as (
        update sluice.resource as held
        set busy_token = taken.token, busy_until = taken.lease_until,
          -- A call leaves at most 0.2 s after the claim, and takes 2.5 s; `renew` allows more.
          call_until = now() + interval '2.7 seconds', exclusive_at = coalesce(held.exclusive_at, now())
        from taken
        where taken.exclusive
          and held.name = taken.resource
      )
      select taken.number + lowest - 1, taken.workflow, taken.version, taken.name, taken.subject, taken.resource, taken.secret,
        taken.memory, taken.exclusive_before, taken.input, taken.failures, taken.crashes, taken.send_backs, taken.defers,
        taken.attempts, taken.earlier_send_backs, taken.traceparent, taken.age, taken.waited
      from taken
    loop
      claimed := claimed || at;
      return next;
    end loop;
  end loop;

  if cardinality(claimed) = cardinality(runs) then
    return;
  end if;
  for number in 1 .. cardinality(runs) loop
    continue when number = any (claimed);
    return query
      select number, sluice.why_not(known, runs[number], positions[number], generations[number]), null::text, null::smallint,
        null::text, null::text, null::text, null::text, null::jsonb, null::boolean, null::jsonb, null::integer, null::integer,
        null::integer, null::integer, null::integer, null::integer[], null::text, null::double precision,
        null::jsonb;
  end loop;
end
$$;

-- What a step that is claimed now has waited for since its run's last attempt (before the first
-- one: since the run began, or was revived), in milliseconds: `backoff` or `retry_after` (the API's
-- own word) until it was due, or `turn`, the run's on its resource; then `gate`, and `gated_by`
-- that held it longest; `queue` is what remains. Parts of less than a millisecond are left out.
create or replace function sluice.waited(run uuid, step text, due_at timestamptz)
returns jsonb
language sql
stable
set search_path = ''
as $$
  with began as (
    select known.workflow, known.version, known.id, coalesce(known.revived_at, known.created_at) as moment
    from sluice.run as known
    where known.id = waited.run
  ),
  last as (
    select ended.ended_at as moment, ended.outcome = 'deferred' and ended.class = 'rate_limited' as limited
    from sluice.attempt as ended
    join began on ended.ended_at >= began.moment
    where ended.run_id = waited.run
    order by ended.ended_at desc
    limit 1
  ),
  closed as (
    select
      case when closed.scope = 'run' then 'limit' else closed.scope || ' ' || closed.name || ': ' || closed.cause end as gate,
      tstzrange(greatest(closed.closed_at, waited.due_at), least(closed.passed_at, now())) as span
    from began
    join sluice.closed_time as closed
      on (closed.scope = 'workflow' and closed.name = began.workflow)
      or (closed.scope = 'run' and closed.name = began.id::text)
      or (closed.scope = 'step' and closed.name = waited.step)
      or (closed.scope = 'host' and closed.name = (
        select definition.host
        from sluice.definition
        where definition.workflow = began.workflow
          and definition.version = began.version
          and definition.step = waited.step
      ))
    where greatest(closed.closed_at, waited.due_at) < least(closed.passed_at, now())
  ),
  gates as (
    select
      coalesce((
        select sum(upper(span) - lower(span))
        from (select unnest(range_agg(closed.span)) as span from closed) as spans
      ), '0') as held,
      (select closed.gate from closed order by upper(closed.span) - lower(closed.span) desc, closed.gate limit 1) as gate
  ),
  parts as (
    select case when last.moment is null then 'turn' when last.limited then 'retry_after' else 'backoff' end as part,
      waited.due_at - coalesce(last.moment, began.moment) as took
    from began
    left join last on true
    union all
    select 'gate', gates.held
    from gates
    union all
    select 'queue', now() - waited.due_at - gates.held
    from gates
  )
  select jsonb_object_agg(parts.part, floor(extract(epoch from parts.took) * 1000)::bigint)
    || jsonb_strip_nulls(jsonb_build_object('gated_by', (select gates.gate from gates)))
  from parts
  where parts.took >= interval '1 millisecond'
$$;

-- Why a step was not claimed. One whose definition the build does not know is postponed: 5 s,
-- doubling to 60.
create or replace function sluice.why_not(known text[], run uuid, step_position smallint, step_generation integer)
returns text
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  asked record;
begin
  select due.name, coalesce(run.workflow || ':' || run.version = any (known) and definition.step = due.name, false) as is_known,
    coalesce(held.busy_until > now(), false) as busy
  into asked
  from sluice.step as due
  join sluice.run on run.id = due.run_id
  join sluice.resource as held on held.name = run.resource
  left join sluice.definition
    on definition.workflow = run.workflow
    and definition.version = run.version
    and definition.position = due.position
  where due.run_id = why_not.run
    and due.position = why_not.step_position
    and due.generation = why_not.step_generation
    and due.state = 'due'
    and due.due_at <= now();
  if not found then
    return 'stale';
  end if;
  if not asked.is_known then
    update sluice.step as due
    set defers = due.defers + 1, generation = due.generation + 1,
      due_at = now() + make_interval(secs => least(60, 5 * 2 ^ least(due.defers, 4)))
    where due.run_id = why_not.run
      and due.position = why_not.step_position
      and due.generation = why_not.step_generation
      and due.state = 'due';
    return 'unknown_definition';
  end if;
  return case when asked.busy then 'resource_busy' else 'gate_closed' end;
end
$$;

-- Moves leases on, and the quiet time of the resources that they hold; says for each whether it is
-- still held. Also the worker's sign of life, in one transaction with the leases: with its last, a
-- worker that was killed moved all that it held, but for what was too young. Where a row is locked
-- the worker asks for each lease alone, all within the time that the others have left.
--
-- `in_session`: this connection is the worker's own, with a session that ends when the worker dies.
-- The session takes a lock that says so, again with each renewal: where it holds the lock, that
-- costs nothing.
create or replace function sluice.renew(
  claimant text,
  runs uuid[],
  positions smallint[],
  tokens bigint[],
  lengths double precision[],
  in_session boolean
)
returns boolean[]
language plpgsql
set search_path = ''
set lock_timeout = '300ms'
as $$
#variable_conflict use_column
declare
  kept boolean[] := '{}';
  lease_end timestamptz;
begin
  for i in 1 .. cardinality(runs) loop
    update sluice.step as running
    -- A renewal that was given up and comes after a later one takes nothing back. What is longer
    -- than any renewal makes it was written before the clock was set back.
    set lease_until = greatest(
      least(running.lease_until, now() + make_interval(secs => 2 * lengths[i])),
      now() + make_interval(secs => lengths[i])
    )
    where running.run_id = runs[i]
      and running.position = positions[i]
      and running.token = tokens[i]
    returning running.lease_until
    into lease_end;
    kept[i] := found;
    if kept[i] then
      update sluice.resource as held
      set busy_until = lease_end, call_until = lease_end
      from sluice.run
      where run.id = runs[i]
        and held.name = run.resource
        and held.busy_token = tokens[i];
    end if;
  end loop;
  insert into sluice.heartbeat (worker, has_session)
  values (claimant, in_session and pg_try_advisory_lock(7319, hashtext(claimant)))
  on conflict (worker) do update
  set beat_at = now(), has_session = excluded.has_session, gone_at = null;
  return kept;
end
$$;

-- Workers that have steps in hand and whose session has ended: the lock that it held is free. One
-- that claimed a step since then lives.
create or replace function sluice.sessions_ended()
returns setof text
language sql
stable
set search_path = ''
as $$
  select dead.worker
  from (
    select running.worker, min(running.started_at) as since
    from sluice.step as running
    where running.state = 'running'
      and running.lease_until > now()
    group by running.worker
  ) as holder
  join sluice.heartbeat as dead on dead.worker = holder.worker
  where dead.has_session
    and (dead.gone_at is null or holder.since < dead.gone_at)
    and not exists (
      select from pg_locks as held
      where held.locktype = 'advisory'
        and held.database = (select oid from pg_database where datname = current_database())
        and held.classid = 7319
        and held.objid::bigint = hashtext(dead.worker)::bigint & 4294967295
    )
$$;

-- Ends the leases of workers whose session has ended: a killed process' connection is closed at
-- once, long before its leases end. How many it ended. A worker whose connection was merely cut
-- beats again within the time that is left to it. A step that may create or delete is left until a
-- call that left as late as one may has ended. Safe with any number of callers. Not right after a
-- start of Postgres, which ends all sessions.
create or replace function sluice.end_leases()
returns bigint
language plpgsql
set search_path = ''
set lock_timeout = '300ms'
as $$
#variable_conflict use_column
declare
  -- A renewal comes at most 1.1 s after the one before it, over a new connection a little later.
  cut_off constant interval := '2.2 seconds';
  ended bigint;
begin
  if now() < pg_postmaster_start_time() + interval '4 seconds' then
    return 0;
  end if;
  update sluice.heartbeat as dead
  set gone_at = now()
  from (
    select seen.worker
    from sluice.heartbeat as seen
    where seen.gone_at is null
      and seen.worker in (select sluice.sessions_ended())
    order by seen.worker
    for no key update skip locked
  ) as seen
  where dead.worker = seen.worker;

  with over as materialized (
    select running.run_id, running.position, running.token, run.resource
    from sluice.heartbeat as dead
    join sluice.step as running on running.worker = dead.worker
    join sluice.run on run.id = running.run_id
    join sluice.resource as held on held.name = run.resource
    where dead.gone_at < now() - cut_off
      and dead.worker in (select sluice.sessions_ended())
      and running.state = 'running'
      and running.lease_until > now()
      and running.started_at < dead.gone_at
      and (held.busy_token is distinct from running.token or held.call_until < now())
    order by running.run_id, running.position
    for no key update of running, dead, held skip locked
  ),
  shortened as (
    update sluice.step as running
    set lease_until = now()
    from over
    where running.run_id = over.run_id
      and running.position = over.position
      and running.token = over.token
  ),
  quiet as (
    update sluice.resource as held
    set busy_until = now()
    from over
    where held.name = over.resource
      and held.busy_token = over.token
  )
  select count(*)
  into ended
  from over;
  return ended;
end
$$;

-- The part of a resource's memory that came from reports.
create or replace function sluice.heard_of(held sluice.resource)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select coalesce(jsonb_object_agg(key, held.memory -> key), '{}')
  from unnest(held.heard) as key
  where held.memory ? key
$$;

-- How an attempt ended, as its worker or a rescue sends it.
do $$
begin
  if to_regtype('sluice.settlement') is null then
    create type sluice.settlement as (
      -- Its place in the caller's list.
      at integer,
      run uuid,
      "position" smallint,
      token bigint,
      -- Only where the lease has ended.
      expiry boolean,
      to_state text,
      due double precision,
      failures integer,
      crashes integer,
      defers integer,
      output jsonb,
      outcome text,
      class text,
      http_status smallint,
      error text,
      note text,
      trace_id text,
      span_id text,
      memory jsonb,
      quiet boolean,
      exclusive boolean,
      -- advance, rerun, succeed, cancel, die; else the step itself is due again, or waits.
      "then" text,
      next text,
      target smallint,
      target_step text,
      send_backs integer,
      reason text,
      -- The token under which the worker goes on with the next step, and that step's lease and
      -- spans.
      carry_on bigint,
      lease double precision,
      context text,
      parent text
    );
  end if;
end
$$;

-- Writes how attempts ended: step, attempt, next step or end of the run, memory, event, the app's
-- rows. One answer per settlement that was written; the others are stale. In key order. Whoever
-- ends a run by it exports the run's span.
--
-- A worker that may go on with the step after this one gives a token for it (`carry_on`). That step
-- is then the worker's at once, as if claimed, where a claim would find what it needs: the run has
-- its turn, the API has given its final answer to all that creates or deletes (`quiet`), and no
-- gate counts. A step that may itself create or delete is never asked for so: it is claimed.
--
-- Safe with any number of callers: the update of the step's row is guarded by its token, which only
-- a running step has (a rescue's also by the lease's end), and all else follows only where that
-- held.
create or replace function sluice.settle(settlements jsonb)
returns table (
  at integer,
  run_state text,
  due_step text,
  due_position smallint,
  due_generation integer,
  workflow text,
  traceparent text,
  linked text,
  -- Of a run that has ended: what the span of the whole run says.
  subject text,
  asked_traceparent text,
  attempts integer,
  lasted double precision,
  -- The worker has the step after this one in hand, with this memory.
  carried_on boolean,
  known jsonb
)
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  -- How long a server may go on with a call that had just left.
  quiet_time constant interval := '2.5 seconds';
  plain constant boolean := not exists (
    select from sluice.gate_now as gate where gate.closed or gate.half_open or gate.limited
  );
  moved record;
  settlement sluice.settlement;
  due_moment timestamptz;
  succeeded uuid[] := '{}';
  cancelled uuid[] := '{}';
  died uuid[] := '{}';
  -- The runs whose app's rows say something else now, and the workflow of each.
  changed uuid[] := '{}';
  changed_of text[] := '{}';
  runs uuid[];
begin
  for moved in
    -- The settlement goes through the parts of this statement as one column: each column of each
    -- part costs, however few rows there are.
    with moved as (
      update sluice.step as running
      set state = case when running.cancel_asked and given."then" <> 'succeed' then 'cancelled' else given.to_state end,
        generation = running.generation + 1, token = null, lease_until = null, cancel_asked = false,
        traceparent = null, parent_span = null,
        due_at = case
          when given.to_state = 'due' and not running.cancel_asked then now() + make_interval(secs => given.due)
        end,
        failures = given.failures, crashes = given.crashes, defers = given.defers,
        output = coalesce(given.output, running.output), error = given.error, held_by = null
      from jsonb_populate_recordset(null::sluice.settlement, settlements) as given
      join sluice.run on run.id = given.run
      where running.run_id = given.run
        and running.position = given.position
        and running.token = given.token
        and (not given.expiry or running.lease_until < now())
      returning given as settlement, case when running.state = 'cancelled' then 'cancel' else given."then" end as way,
        plain and given.quiet and given.carry_on is not null as carries, running.name,
        running.worker, running.started_at, running.state, running.generation, running.due_at, running.priority, run.workflow, run.resource,
        run.subject, run.traceparent, run.linked_traceparent as linked, run.asked_traceparent,
        extract(epoch from now() - coalesce(run.revived_at, run.requested_at))::double precision as lasted,
        (
          select before.error is not null or before.held_by is not null
          from sluice.step as before
          where before.run_id = given.run
            and before.position = given.position
        ) as had_error,
        -- The run was sent back past it.
        exists (
          select
          from sluice.step as after
          where after.run_id = given.run
            and after.position = given.position + 1
        ) as is_there
    ),
    attempted as (
      insert into sluice.attempt
        (run_id, position, step, token, worker, started_at, outcome, class, http_status, error, note, trace_id, span_id)
      select (settlement).run, (settlement).position, name, (settlement).token, worker, started_at, (settlement).outcome,
        (settlement).class, (settlement).http_status, (settlement).error, (settlement).note, (settlement).trace_id,
        (settlement).span_id
      from moved
    ),
    -- Where the API has answered, the resource is free. Where it may still be at work, it stays
    -- busy for the time of one call from now on; a rescue, which knows nothing of the worker,
    -- leaves it at the lease.
    kept as (
      update sluice.resource as held
      set memory = case
          when (moved.settlement).memory is null then held.memory
          when held.heard_at > moved.started_at then held.memory || (moved.settlement).memory || sluice.heard_of(held)
          else held.memory || (moved.settlement).memory
        end,
        busy_until = case
          when held.busy_token is distinct from (moved.settlement).token then held.busy_until
          when (moved.settlement).quiet then null
          when (moved.settlement).expiry then held.busy_until
          else greatest(held.busy_until, now() + quiet_time)
        end,
        busy_token = case
          when held.busy_token = (moved.settlement).token and (moved.settlement).quiet then null
          else held.busy_token
        end
      from moved
      where ((moved.settlement).exclusive or (moved.settlement).memory is not null)
        and held.name = moved.resource
        and ((moved.settlement).memory is not null or held.busy_token = (moved.settlement).token)
      returning (moved.settlement).at, held.busy_until, held.memory
    ),
    next as (
      insert into sluice.step as next
        (run_id, position, name, priority, due_at, state, token, worker, started_at, lease_until, attempts, traceparent,
          parent_span)
      select (settlement).run, (settlement).position + 1, (settlement).next, priority, now(),
        case when carries then 'running' else 'due' end, case when carries then (settlement).carry_on end,
        case when carries then worker end, case when carries then now() end,
        case when carries then now() + make_interval(secs => (settlement).lease) end, carries::integer,
        case when carries then (settlement).context end, case when carries then (settlement).parent end
      from moved
      where way = 'advance'
        and not is_there
      returning next.run_id, next.name, next.position, next.generation, next.state
    )
    select moved.*, kept.busy_until as free_at, next.name as next_step, next.position as next_position,
      next.generation as next_generation, next.state = 'running' as carried_on,
      case
        when next.state = 'running' then coalesce(
          kept.memory,
          (
            select held.memory
            from sluice.resource as held
            where held.name = moved.resource
          )
        )
      end as known,
      case
        when moved.way in ('succeed', 'cancel', 'die') then (
          select sum(own.attempts)
          from sluice.step as own
          where own.run_id = (moved.settlement).run
        )
      end as attempts
    from moved
    left join kept on kept.at = (moved.settlement).at
    left join next on next.run_id = (moved.settlement).run
  loop
    settlement := moved.settlement;
    at := settlement.at;
    run_state := 'active';
    carried_on := coalesce(moved.carried_on, false);
    known := moved.known;
    due_step := null;
    due_moment := now();
    case moved.way
      when 'advance' then
        if moved.is_there then
          update sluice.step as next
          set due_at = now(), generation = next.generation + 1
          where next.run_id = settlement.run
            and next.position = settlement.position + 1
            and next.state = 'due'
          returning next.name, next.position, next.generation
          into due_step, due_position, due_generation;
          if not found then
            raise exception 'step % of run % has ended already', settlement.position + 1, settlement.run
              using errcode = 'unique_violation';
          end if;
        elsif not carried_on then
          due_step := moved.next_step;
          due_position := moved.next_position;
          due_generation := moved.next_generation;
        end if;
      when 'rerun' then
        update sluice.step as again
        set state = 'due', generation = again.generation + 1,
          due_at = case when again.position = settlement.target then now() end,
          send_backs = case when again.position = settlement.target then settlement.send_backs else again.send_backs end
        where again.run_id = settlement.run
          and again.position >= settlement.target
          and again.state = 'succeeded';
        select again.name, again.position, again.generation, again.due_at
        into due_step, due_position, due_generation, due_moment
        from sluice.step as again
        where again.run_id = settlement.run
          and again.position = settlement.target
          and again.state = 'due';
      when 'succeed' then
        run_state := 'succeeded';
        succeeded := succeeded || settlement.run;
      when 'cancel' then
        run_state := 'cancelled';
        cancelled := cancelled || settlement.run;
      when 'die' then
        run_state := 'dead';
        died := died || settlement.run;
        -- Where an earlier step dies than the one that settled, those after it wait for it, so that
        -- a revived run comes past them again.
        update sluice.step as after
        set state = 'due', due_at = null, generation = after.generation + 1
        where after.run_id = settlement.run
          and after.position > settlement.target
          and after.state = 'succeeded';
        update sluice.step as dying
        set state = 'dead', due_at = null
        where dying.run_id = settlement.run
          and dying.position = settlement.target
          and dying.state in ('due', 'succeeded');
        insert into sluice.dead_letter (run_id, position, step, reason, class, error)
        values (
          settlement.run, settlement.target, settlement.target_step, settlement.reason, settlement.class, settlement.error
        );
      else
        if moved.state = 'due' and moved.due_at is not null then
          -- Not before whatever may be under way there has come to its end.
          if moved.free_at > moved.due_at then
            update sluice.step as later
            set due_at = moved.free_at
            where later.run_id = settlement.run
              and later.position = settlement.position;
          end if;
          due_step := moved.name;
          due_position := settlement.position;
          due_generation := moved.generation;
          due_moment := greatest(moved.due_at, moved.free_at);
        end if;
    end case;

    if moved.way <> 'advance' or settlement.memory is not null or settlement.failures > 0 or settlement.error is not null
      or moved.had_error
    then
      changed := changed || settlement.run;
      changed_of := changed_of || moved.workflow;
    end if;

    if due_moment > now() then
      due_step := null;
    end if;
    if due_step is not null and not plain then
      if not sluice.may_push(moved.workflow, due_step) then
        due_step := null;
      end if;
    end if;
    workflow := moved.workflow;
    traceparent := moved.traceparent;
    linked := moved.linked;
    subject := moved.subject;
    asked_traceparent := moved.asked_traceparent;
    attempts := moved.attempts;
    lasted := moved.lasted;
    return next;
  end loop;

  if succeeded <> '{}' then
    perform sluice.end_runs(succeeded, 'succeeded');
  end if;
  if cancelled <> '{}' then
    perform sluice.end_runs(cancelled, 'cancelled');
  end if;
  if died <> '{}' then
    perform sluice.end_runs(died, 'dead');
  end if;

  while changed <> '{}' loop
    workflow := changed_of[1];
    runs := '{}';
    for number in 1 .. cardinality(changed) loop
      if changed_of[number] = workflow then
        runs := runs || changed[number];
      end if;
    end loop;
    perform sluice.project(workflow, runs);
    exit when cardinality(runs) = cardinality(changed);
    for number in reverse cardinality(changed) .. 1 loop
      if changed_of[number] = workflow then
        changed := changed[: number - 1] || changed[number + 1 :];
        changed_of := changed_of[: number - 1] || changed_of[number + 1 :];
      end if;
    end loop;
  end loop;
end
$$;

-- Upkeep ------------------------------------------------------------------------------------------

-- For so long a call of this workflow may be under way that nobody knows of.
create or replace function sluice.longest_lease(workflow text)
returns interval
language sql
stable
set search_path = ''
as $$
  select coalesce(max(definition.lease), '0')
  from sluice.definition
  where definition.workflow = longest_lease.workflow
$$;

-- Which of the functions below would find something: one look for all of them, twice a second while
-- a step is running, whose lease may end. May say so in vain, never the other way round.
create or replace function sluice.upkeep(
  out running boolean,
  out gone boolean,
  out expired boolean,
  out late boolean,
  out cancelled boolean,
  out unwritten boolean,
  out untold boolean,
  out doubted boolean
)
language plpgsql
stable
set search_path = ''
as $$
begin
  running := exists (select from sluice.step where step.state = 'running');
  gone := running and exists (select from sluice.sessions_ended());
  expired := running
    and exists (select from sluice.step where step.state = 'running' and step.lease_until < now());
  late := exists (select from sluice.run where run.state = 'active' and run.deadline_at < now());
  cancelled := exists (select from sluice.run where run.span_waits);
  unwritten := exists (select from sluice.projection_pending);
  untold := exists (select from sluice.gate where gate.breaker = 'open' and gate.breaker_reason is not null)
    or exists (select from sluice.step where step.held_by is not null);
  doubted := exists (
    select from sluice.resource as held
    where held.doubted_at < now() - sluice.longest_lease(held.doubted_workflow)
  );
end
$$;

-- Up to `most` running steps of known definitions whose lease has ended. No lease ends before
-- Postgres has been up for one lease: its own outage is not a crash of its clients. `worker_lives`:
-- its worker has beaten when it would have moved this lease, 0.6 to 1.1 s after it did so last, so
-- it lost the lease and did not crash. A beat that came sooner says nothing: so young a lease is
-- not moved. Nor does a beat say so whose session has ended since.
create or replace function sluice.expired(known text[], most integer)
returns table (
  run_id uuid,
  step_position smallint,
  token bigint,
  workflow text,
  version smallint,
  step text,
  failures integer,
  crashes integer,
  send_backs integer,
  defers integer,
  attempts integer,
  worker text,
  traceparent text,
  worker_lives boolean,
  generation integer,
  -- The attempt's own span and the one above it, and how long ago it was claimed.
  attempt_traceparent text,
  parent_span text,
  age double precision
)
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
    select over.run_id, over.position, over.token, run.workflow, run.version, over.name, over.failures, over.crashes,
      over.send_backs, over.defers, over.attempts, over.worker, run.traceparent,
      coalesce(
        heartbeat.gone_at is null and heartbeat.beat_at > over.lease_until - definition.lease + interval '1.2 seconds', false
      ),
      over.generation, over.traceparent, over.parent_span, extract(epoch from now() - over.started_at)::double precision
    from sluice.step as over
    join sluice.run on run.id = over.run_id
    join sluice.definition
      on definition.workflow = run.workflow
      and definition.version = run.version
      and definition.position = over.position
      and definition.step = over.name
    left join sluice.heartbeat on heartbeat.worker = over.worker
    where over.state = 'running'
      and over.lease_until < now()
      and now() > pg_postmaster_start_time() + definition.lease
      and run.workflow || ':' || run.version = any (known)
    order by over.lease_until, over.run_id
    limit most;
end
$$;

-- Ends up to `most` runs past their deadline. Judged on due steps only: what is running has its
-- chance, and what stands behind a closed gate is not late, nor what waits for its turn behind a
-- limit. The time that gates or limits held a run is added to its deadline here, once that is
-- reached: a gate that passes again writes no runs. Safe with any number of callers: rows in other
-- hands are passed over.
create or replace function sluice.exceed(most integer)
returns table (
  run_id uuid,
  workflow text,
  subject text,
  traceparent text,
  asked_traceparent text,
  attempts integer,
  lasted double precision
)
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  late record;
  changed jsonb := '{}';
begin
  for late in
    select run.id, run.workflow, run.subject, run.traceparent, run.asked_traceparent, due.position, due.name, due.error,
      extract(epoch from now() - coalesce(run.revived_at, run.requested_at))::double precision as lasted,
      coalesce((
        select sum(upper(span) - lower(span))
        from (
          select unnest(range_agg(tstzrange(
            greatest(closed.closed_at, run.deadline_from), least(closed.passed_at, now())
          ))) as span
          from sluice.closed_time as closed
          where (
              (closed.scope = 'workflow' and closed.name = run.workflow)
              or (closed.scope = 'run' and closed.name = run.id::text)
              or (closed.scope = 'step' and closed.name in (
                select own.name
                from sluice.step as own
                where own.run_id = run.id
              ))
              or (closed.scope = 'host' and closed.name in (
                select own.host
                from sluice.definition as own
                where own.workflow = run.workflow
                  and own.version = run.version
              ))
            )
            and greatest(closed.closed_at, run.deadline_from) < least(closed.passed_at, now())
        ) as spans
      ), '0') as held
    from sluice.run
    join sluice.step as due on due.run_id = run.id
    left join sluice.definition
      on definition.workflow = run.workflow
      and definition.version = run.version
      and definition.position = due.position
    cross join lateral sluice.gate_state(run.workflow, due.name, definition.host) as gates
    where run.state = 'active'
      and run.deadline_at < now()
      and due.state = 'due'
      and due.due_at is not null
      and gates.passes
      and not gates.half_open
      and not (gates.limited and due.due_at <= now())
    -- The order of the index: in the order of the ids, the planner would go through all steps.
    order by run.deadline_at
    limit most
    for no key update of due, run skip locked
  loop
    if late.held > interval '0' then
      update sluice.run
      set deadline_at = run.deadline_at + late.held, deadline_from = now()
      where run.id = late.id;
      continue;
    end if;
    update sluice.step as due
    set state = 'dead', due_at = null, error = coalesce(due.error, 'the run''s deadline has passed')
    where due.run_id = late.id
      and due.position = late.position;
    -- Class and error are of the same attempt, the last one of the step: none where it was never
    -- tried.
    insert into sluice.dead_letter (run_id, position, step, reason, class, error)
    values (
      late.id, late.position, late.name, 'deadline_exceeded',
      (
        select last.class
        from sluice.attempt as last
        where last.run_id = late.id
          and last.position = late.position
        order by last.id desc
        limit 1
      ),
      coalesce(late.error, 'the run''s deadline has passed')
    );
    perform sluice.end_runs(array[late.id], 'dead');
    changed := jsonb_set(changed, array[late.workflow], coalesce(changed -> late.workflow, '[]') || to_jsonb(late.id));
    run_id := late.id;
    workflow := late.workflow;
    subject := late.subject;
    traceparent := late.traceparent;
    asked_traceparent := late.asked_traceparent;
    attempts := (select sum(own.attempts) from sluice.step as own where own.run_id = late.id);
    lasted := late.lasted;
    return next;
  end loop;

  for late in
    select entry.key as workflow, array(select jsonb_array_elements_text(entry.value)::uuid order by 1) as runs
    from jsonb_each(changed) as entry
    order by entry.key
  loop
    perform sluice.project(late.workflow, late.runs);
  end loop;
end
$$;

-- Up to `most` runs that were cancelled here, by a person or with their subject, for whoever
-- exports their spans: each once, and only where it is fresh.
create or replace function sluice.spans_that_wait(most integer)
returns table (
  run_id uuid,
  workflow text,
  subject text,
  traceparent text,
  asked_traceparent text,
  attempts integer,
  lasted double precision,
  ended_ago double precision
)
language sql
volatile
set search_path = ''
as $$
  with told as (
    update sluice.run
    set span_waits = false
    where run.id in (
      select waiting.id
      from sluice.run as waiting
      where waiting.span_waits
      order by waiting.id
      limit most
      for no key update skip locked
    )
    returning run.*
  )
  select told.id, told.workflow, told.subject, told.traceparent, told.asked_traceparent,
    (select sum(own.attempts)::integer from sluice.step as own where own.run_id = told.id),
    extract(epoch from told.ended_at - coalesce(told.revived_at, told.requested_at))::double precision,
    extract(epoch from now() - told.ended_at)::double precision
  from told
  where told.ended_at > now() - interval '1 minute'
$$;

-- Up to `most` due steps behind a host's open breaker say why they wait, and the app's rows with
-- them. As many that said so, and do not wait for it any more, say it no longer and are due at
-- once: the host answers again. How many changed. Steps that are locked are being moved this
-- moment.
create or replace function sluice.explain(most integer)
returns bigint
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  told record;
  count bigint := 0;
begin
  for told in
    with waiting as (
      select due.run_id, due.position, gate.breaker_reason as reason
      from sluice.gate
      join sluice.definition on definition.host = gate.name
      join sluice.step as due
        on due.name = definition.step
        and due.state = 'due'
        and due.due_at is not null
        and due.held_by is distinct from gate.breaker_reason
      where gate.scope = 'host'
        and gate.breaker = 'open'
        and gate.breaker_reason is not null
      order by due.run_id, due.position
      limit most
      for no key update of due skip locked
    ),
    let_go as (
      select held.run_id, held.position
      from sluice.step as held
      where held.held_by is not null
        and not (
          held.state = 'due'
          and held.due_at is not null
          and exists (
            select from sluice.definition
            join sluice.gate on gate.scope = 'host' and gate.name = definition.host
            where definition.step = held.name
              and gate.breaker = 'open'
          )
        )
      order by held.run_id, held.position
      limit most
      for no key update of held skip locked
    ),
    said as (
      update sluice.step as step
      set held_by = told.reason,
        -- Without a moment it waits for something else.
        due_at = case
          when told.reason is null and step.state = 'due' and step.due_at is not null then least(step.due_at, now())
          else step.due_at
        end
      from (
        select run_id, position, reason from waiting
        union all
        select run_id, position, null from let_go
      ) as told
      where step.run_id = told.run_id
        and step.position = told.position
      returning step.run_id
    )
    select run.workflow, array_agg(distinct run.id order by run.id) as runs
    from said
    -- Of one that has ended the rows say so already, or what a later run made of them.
    join sluice.run on run.id = said.run_id and run.state = 'active'
    group by run.workflow
  loop
    perform sluice.project(told.workflow, told.runs);
    count := count + cardinality(told.runs);
  end loop;
  return count;
end
$$;

-- Remembers that a call of this run, which creates or deletes, may have met the call of another
-- one.
create or replace function sluice.doubt(run uuid)
returns void
language sql
volatile
set search_path = ''
as $$
  update sluice.resource as held
  set doubted_at = now(), doubted_workflow = late.workflow
  from sluice.run as late
  where late.id = doubt.run
    and held.name = late.resource
$$;

-- A resource at which two calls may have met gets a new run, once nothing of them can be under way
-- any more and the last run there, of the workflow whose call was late, has succeeded: with that
-- run's input it reads back what there is and mends it. Where somebody has started a run meanwhile,
-- a later round decides; where the last run is dead or cancelled, a person does, and a run of
-- another workflow has the last word. Returns what was started.
create or replace function sluice.look_again(most integer)
returns setof sluice.taken
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  doubted record;
  started sluice.taken;
begin
  for doubted in
    select held.name, held.subject, held.doubted_at, last.workflow, last.input,
      last.state = 'succeeded' and last.workflow = held.doubted_workflow as looks
    from sluice.resource as held
    cross join lateral (
      select run.workflow, run.state, run.input
      from sluice.run
      where run.subject = held.subject
        and run.resource = held.name
      order by run.id desc
      limit 1
    ) as last
    where held.doubted_at < now() - sluice.longest_lease(held.doubted_workflow)
      and last.state <> 'active'
      and exists (select from sluice.workflow as known where known.name = held.doubted_workflow)
    order by held.name
    limit most
    for no key update of held skip locked
  loop
    if doubted.looks then
      started := sluice.start_run(
        doubted.workflow, doubted.subject, doubted.name, doubted.input, null, now(), true
      );
      continue when started.outcome <> 'started';
      return next started;
    end if;
    update sluice.resource as held
    set doubted_at = null, doubted_workflow = null
    where held.name = doubted.name
      and held.doubted_at = doubted.doubted_at;
  end loop;
end
$$;

-- Events ------------------------------------------------------------------------------------------

-- Up to `most` events for this publisher to publish until its claim ends, `lease` seconds from now:
-- of each run the first that is not published, so that whatever becomes of a publisher, the next
-- event of that run waits until this one is confirmed. Safe with any number of callers: a row is
-- claimed once, and one whose claim has ended is anybody's.
create or replace function sluice.claim_events(publisher text, lease double precision, most integer)
returns table (
  id uuid,
  run_id uuid,
  sequence integer,
  type text,
  routing_key text,
  payload jsonb,
  traceparent text,
  created_at timestamptz,
  secret text,
  memory jsonb
)
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
begin
  return query
    with free as materialized (
      select event.id
      from sluice.event
      where event.published_at is null
        and (event.claimed_until is null or event.claimed_until < now())
        -- Where the one before it has gone out, all before it have: one look-up by key, however
        -- many wait, and whatever a gate has announced before.
        and coalesce(
          (
            select before.published_at is not null
            from sluice.event as before
            where before.run_id = event.run_id
              and before.sequence < event.sequence
            order by before.sequence desc
            limit 1
          ),
          true
        )
      order by event.created_at
      limit most
      for no key update of event skip locked
    ),
    claimed as (
      update sluice.event as event
      set claimed_by = claim_events.publisher, claimed_until = now() + make_interval(secs => lease)
      where event.id = any (array(select free.id from free))
      returning event.*
    )
    select claimed.id, claimed.run_id, claimed.sequence, claimed.type, claimed.routing_key, claimed.payload,
      -- A run's start is written before its intake has named the trace.
      case claimed.type
        when 'sluice.run.started.v1' then coalesce(run.linked_traceparent, run.traceparent, claimed.traceparent)
        else claimed.traceparent
      end,
      claimed.created_at, held.secret, held.memory
    from claimed
    left join sluice.run on run.id = claimed.run_id
    -- What its texts must not say. A gate's reason may quote what any resource was answered.
    left join lateral (
      select resource.secret, resource.memory
      from sluice.resource
      where resource.name = run.resource
        and claimed.payload ?| array['error', 'reason', 'note']
      union all
      select resource.secret, resource.memory
      from sluice.resource
      where claimed.payload ? 'reason'
        and not claimed.payload ? 'run'
        and strpos(claimed.payload ->> 'reason', resource.secret) > 0
      limit 1
    ) as held on true
    order by claimed.created_at, claimed.sequence;
end
$$;

-- These are with the broker, which has confirmed each; `unconfirmed` are given back. How many were
-- not published before. True whoever holds their claims now: what is confirmed is published.
create or replace function sluice.publish_events(publisher text, confirmed uuid[], unconfirmed uuid[])
returns bigint
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  counted bigint;
begin
  update sluice.event as event
  set claimed_by = null, claimed_until = null
  where event.id = any (unconfirmed)
    and event.claimed_by = publish_events.publisher
    and event.published_at is null;
  update sluice.event as event
  set published_at = now(), claimed_by = null, claimed_until = null
  where event.id = any (confirmed)
    and event.published_at is null;
  get diagnostics counted = row_count;
  return counted;
end
$$;

-- These go out once more, under the same ids and in the order of their runs. How many there were:
-- one that is not published goes out anyway.
create or replace function sluice.replay_events(events uuid[], actor text, note text)
returns bigint
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  counted bigint;
begin
  update sluice.event as event
  set published_at = null, claimed_by = null, claimed_until = null, replayed_at = now()
  where event.id = any (events)
    and event.published_at is not null;
  get diagnostics counted = row_count;
  if counted > 0 then
    insert into sluice.audit (actor, action, subject, detail)
    values (
      replay_events.actor, 'events.replay', counted || ' events', jsonb_build_object('events', events, 'note', replay_events.note)
    );
  end if;
  return counted;
end
$$;

-- Retention, in small batches: up to `most` of each kind that ended longer ago than `older_than`.
-- Open dead letters are never pruned. `removed`: how many rows in all; `unpublished`: how many of
-- them are events that nobody has published.
create or replace function sluice.prune(older_than interval, most integer, out removed bigint, out unpublished bigint)
language plpgsql
set search_path = ''
set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
  gone uuid[];
  counted bigint;
begin
  select coalesce(array_agg(old.id), '{}')
  into gone
  from (
    select run.id
    from sluice.run
    where run.state in ('succeeded', 'cancelled')
      and run.ended_at < now() - older_than
    limit most
    for update skip locked
  ) as old;
  delete from sluice.step where run_id = any (gone);
  delete from sluice.attempt where run_id = any (gone);
  delete from sluice.dead_letter where run_id = any (gone);
  delete from sluice.closed_time where scope = 'run' and name = any (gone::text[]);
  delete from sluice.run where id = any (gone);
  removed := cardinality(gone);

  delete from sluice.event
  where id in (
    select id
    from sluice.event
    where published_at < now() - older_than
    limit most
  );
  get diagnostics counted = row_count;
  removed := removed + counted;
  delete from sluice.event
  where id in (
    select id
    from sluice.event
    where published_at is null
      and created_at < now() - older_than
      and (replayed_at is null or replayed_at < now() - older_than)
      and (claimed_until is null or claimed_until < now())
    order by created_at
    limit most
    for update skip locked
  );
  get diagnostics unpublished = row_count;
  removed := removed + unpublished;
  -- A worker that has not beaten for an hour is gone, and nobody asks for it any more.
  delete from sluice.heartbeat where beat_at < now() - interval '1 hour';
  get diagnostics counted = row_count;
  removed := removed + counted;
  delete from sluice.request where refused_at < now() - older_than;
  removed := removed + sluice.prune_audit(older_than, most);
end
$$;

-- For the owner only: how statements that are asked all the time are planned: once a connection,
-- over the indexes, whatever the tables hold. A plan that is made on an empty ledger, where reading
-- all rows is the cheapest, would stay when there are many; one that is made for each call costs
-- more than the call.
create or replace function sluice.plan_once(names text[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  hot regprocedure;
begin
  for hot in
    select function.oid::regprocedure
    from pg_catalog.pg_proc as function
    where function.pronamespace = 'sluice'::regnamespace
      and function.proname = any (names)
  loop
    execute format(
      'alter function %s set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
       set enable_mergejoin = off set jit = off',
      hot
    );
  end loop;
end
$$;

comment on function sluice.plan_once(text[]) is
  'For the owner only: has the statements of these functions planned once a connection, over the indexes.';

do $$
begin
  perform sluice.plan_once(
    '{intake,claim,settle,renew,waiting,upkeep,sessions_ended,end_leases,expired,exceed,project_pending,explain,start_runs,end_runs,give_turn,end_gone,claim_events,publish_events}'
  );
end
$$;
-- However many events wait, those that have waited longest are read, and no others.
alter function sluice.claim_events(text, double precision, integer) set enable_bitmapscan = off;
-- What a batch has started meets the resources of that batch.
alter function sluice.start_runs(text, text[], text[], jsonb[], text[], timestamptz[], boolean) set enable_hashjoin = on;
