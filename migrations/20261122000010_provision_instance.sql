-- The workflow provision-instance in SQL: how its queue rows become runs, and how the app's two
-- tables follow the ledger. The engine calls both by name (sluice.workflow) and knows neither. May
-- be run again at any time.

set local lock_timeout = '5s';

-- The failures of every waiting step whose row's `retry_count` somebody set to 0 are forgotten. A
-- request whose step is running waits until it is not; one without a waiting or running step has
-- nothing to reset.
create or replace function sluice.reset_budgets()
returns void
language sql
volatile
set search_path = ''
as $$
  with asked as (
    delete from sluice.budget_reset as reset
    where not exists (
      select from sluice.run
      join sluice.step on step.run_id = run.id
      where run.subject = reset.subject::text
        and run.workflow = 'provision-instance'
        and run.state = 'active'
        and step.state = 'running'
    )
    returning reset.subject::text as subject
  )
  update sluice.step as step
  set failures = 0
  from asked
  join sluice.run
    on run.subject = asked.subject
    and run.workflow = 'provision-instance'
    and run.state = 'active'
  where step.run_id = run.id
    and step.state = 'due'
    and step.failures > 0
$$;

-- One queue row into a run. Whoever set it to `pending`, the sign-up trigger or a person with SQL,
-- gave a command: no run, or one that ended well or was cancelled: a new run; a dead one: revived;
-- a waiting step: due now; one under way: nothing but the status back. One that is ending this
-- moment: `later`, and nothing is changed.
create or replace function sluice.take_sign_up(
  user_id uuid,
  instance text,
  retry_count integer,
  traceparent text,
  created_at timestamptz
)
returns sluice.taken
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  taken sluice.taken;
begin
  taken := sluice.start_run(
    'provision-instance', take_sign_up.user_id::text, instance, '{}', take_sign_up.traceparent, take_sign_up.created_at
  );
  -- The caller is about to write that this run was joined or revived. Until then it must not end,
  -- for its end would be overwritten. Where it is ending now, the row is looked at again.
  if taken.outcome = 'dead' then
    taken.outcome := case
      when sluice.revive_run(taken.run_id, 'sql', 'the queue row was set to pending') then 'revived'
      else 'later'
    end;
  elsif taken.outcome = 'joined' then
    perform
    from sluice.run
    where run.id = taken.run_id
      and run.state = 'active'
    for no key update skip locked;
    if not found then
      taken.outcome := 'later';
    end if;
  end if;
  if taken.outcome = 'later' then
    return taken;
  end if;

  if taken.outcome = 'joined' then
    -- A step that is locked is being moved this moment: it needs no push.
    update sluice.step as due
    set due_at = least(due.due_at, now()),
      failures = case when take_sign_up.retry_count = 0 then 0 else due.failures end
    where due.run_id = taken.run_id
      and due.position = (
        select waiting.position
        from sluice.step as waiting
        where waiting.run_id = taken.run_id
          and waiting.state = 'due'
          and waiting.due_at is not null
        for no key update skip locked
      )
      and due.state = 'due';
  end if;
  if taken.outcome <> 'started' then
    select due.name, due.position, due.generation, run.traceparent, run.linked_traceparent
    into taken.step, taken.step_position, taken.generation, taken.traceparent, taken.linked
    from sluice.run
    join sluice.step as due on due.run_id = run.id
    where run.id = taken.run_id
      and due.state = 'due'
      and due.due_at <= now();
  end if;
  return taken;
end
$$;

-- Takes up to `most` pending queue rows, the oldest first. Safe with any number of callers: rows
-- that another relay, or the user's own transaction, has in hand are passed over. A row that cannot
-- become a run is set to `failed` with the reason.
create or replace function sluice.take_sign_ups(most integer)
returns setof sluice.taken
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  projecting_before constant text := coalesce(current_setting('sluice.projecting', true), '');
  asked record;
  one sluice.taken;
  started text[];
  all_taken sluice.taken[] := '{}';
  runs uuid[] := '{}';
  -- First all in one subtransaction with their projection: a row that one subtransaction locks and
  -- another one writes would cost a multixact, and keep its entry in the index of pending rows
  -- until the next vacuum. Where the projection fails, all without it. Where one row is at fault,
  -- each on its own, so that it is found.
  way text := 'with projection';
  at_projection boolean;
  lock_timeout_before constant text := current_setting('lock_timeout');
  -- Of settings that are set: an assignment costs less than a `perform`.
  value text;
begin
  -- What intake writes to the app's rows is nobody's command.
  value := set_config('sluice.projecting', 'on', true);
  if exists (select from sluice.budget_reset) then
    perform sluice.reset_budgets();
  end if;

  loop
    all_taken := '{}';
    runs := '{}';
    at_projection := false;
    begin
      -- Not the rows themselves but what was asked for, in key order.
      select coalesce(array_agg(pending.user_id order by pending.user_id), '{}') as users,
        array_agg(pending.user_id::text order by pending.user_id) as subjects,
        array_agg(
          coalesce(
            (
              select held.name
              from sluice.resource as held
              where held.subject = pending.user_id::text
                and held.workflow = 'provision-instance'
              order by held.created_at
              limit 1
            ),
            'user_' || pending.user_id
          )
          order by pending.user_id
        ) as instances,
        array_agg('{}'::jsonb) as inputs,
        array_agg(coalesce(pending.retry_count, 0)::integer order by pending.user_id) as retry_counts,
        array_agg(pending.traceparent order by pending.user_id) as traceparents,
        array_agg(case when isfinite(pending.created_at) then pending.created_at end order by pending.user_id) as requested
      into asked
      from (
        select queue.user_id, queue.retry_count, queue.traceparent, queue.created_at
        from public.evolution_instance_creation_queue as queue
        where queue.status = 'pending'
          and queue.user_id is not null
          -- Taken already, but the row could not be written since.
          and not exists (
            select from sluice.projection_pending as pending
            where pending.workflow = 'provision-instance'
              and pending.subject = queue.user_id::text
              and pending.taken
          )
          -- Old rows wait for a person's word.
          and not exists (select from sluice.held_back as adopted where adopted.subject = queue.user_id)
        order by queue.created_at
        limit most
        for no key update skip locked
      ) as pending;
      started := '{}';
      if way <> 'singly' and asked.users <> '{}' then
        for one in
          select *
          from sluice.start_runs(
            'provision-instance', asked.subjects, asked.instances, asked.inputs, asked.traceparents, asked.requested
          )
        loop
          all_taken := all_taken || one;
          runs := runs || one.run_id;
          started := started || one.subject;
        end loop;
      end if;

      for number in 1 .. cardinality(asked.users) loop
        continue when asked.subjects[number] = any (started);
        if way <> 'singly' then
          one := sluice.take_sign_up(
            asked.users[number], asked.instances[number], asked.retry_counts[number], asked.traceparents[number],
            asked.requested[number]
          );
        else
          begin
            one := sluice.take_sign_up(
              asked.users[number], asked.instances[number], asked.retry_counts[number], asked.traceparents[number],
              asked.requested[number]
            );
          exception
            when data_exception or integrity_constraint_violation then
              one := row(
                'refused', null, 'provision-instance', asked.users[number], null, null, null, null, null, null
              )::sluice.taken;
              update public.evolution_instance_creation_queue as queue
              set status = 'failed', error_message = sqlerrm, updated_at = now()
              where queue.user_id = asked.users[number];
          end;
        end if;
        -- Its row stays as it is.
        continue when one.outcome = 'later';
        all_taken := all_taken || one;
        if one.run_id is not null then
          runs := runs || one.run_id;
        end if;
      end loop;
      if way = 'with projection' then
        at_projection := true;
        value := set_config('sluice.taking', 'on', true);
        value := set_config('lock_timeout', '50ms', true);
        perform sluice.write_instances(runs, true);
        value := set_config('sluice.taking', '', true);
        value := set_config('lock_timeout', lock_timeout_before, true);
      end if;
      exit;
    exception
      when others then
        -- 21: two subjects of the batch ask for one resource. 22, 23: what a row holds.
        if not at_projection and (way = 'singly' or sqlstate !~ '^2[123]') then
          raise;
        end if;
        way := case when at_projection then 'together' else 'singly' end;
    end;
  end loop;

  if way <> 'with projection' then
    perform sluice.project('provision-instance', runs, true);
  end if;
  value := set_config('sluice.projecting', projecting_before, true);
  return query select * from unnest(all_taken);
end
$$;

-- What the app's two rows say of a run.
create or replace view sluice.shown_run as
  select
    run.id as run_id,
    run.subject::uuid as user_id,
    -- Nobody asked for an internal run: it shows only where it needs a person.
    not run.internal or run.state = 'dead' as is_asked_for,
    case run.state
      when 'active' then 'processing'
      when 'succeeded' then 'completed'
      else 'failed'
    end as status,
    case run.state
      -- Ready, but whoever was connected before is not, and why.
      when 'succeeded' then held.memory ->> 'reason'
      when 'cancelled' then 'cancelled by ' || run.cancel_by || coalesce(': ' || run.cancel_reason, '')
      when 'dead' then (
        select letter.reason || coalesce(': ' || letter.error, '')
        from sluice.dead_letter as letter
        where letter.run_id = run.id
          and letter.resolved_at is null
      )
      else coalesce(step.held_by, step.error)
    end as error_message,
    coalesce(step.failures, 0) as retry_count,
    run.ended_at as processed_at,
    held.name,
    case
      -- What an earlier run made of it still holds.
      when run.state = 'dead' and coalesce(held.memory ->> 'status', 'creating') = 'creating' then 'error'
      else coalesce(held.memory ->> 'status', 'creating')
    end as instance_status,
    coalesce(held.memory ->> 'token', held.secret) as token,
    case when held.memory ->> 'status' = 'connecting' then held.memory ->> 'qr_code' end as qr_code,
    held.memory ->> 'phone_number' as phone_number,
    -- The API has said it, or that there is none.
    held.memory ? 'phone_number' as knows_phone_number,
    coalesce(held.memory ->> 'webhook_url', '') as webhook_url,
    -- The run has seen the instance at the API. Until then the app's row may know more than the
    -- memory of earlier runs.
    step.is_after_the_first
      -- Nothing was made of it, and nobody goes on.
      or run.state = 'dead' and coalesce(held.memory ->> 'status', 'creating') = 'creating' as has_seen_it
  from sluice.run
  join sluice.resource as held on held.name = run.resource
  left join lateral (
    select current.failures, current.error, case when current.state = 'due' then current.held_by end as held_by,
      current.position > 0 or current.state = 'succeeded' as is_after_the_first
    from sluice.step as current
    where current.run_id = run.id
    -- The last one, where all have succeeded.
    order by current.state = 'succeeded',
      case when current.state = 'succeeded' then -current.position else current.position end
    limit 1
  ) as step on true
  where run.subject ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$';

-- Makes the app's rows what the ledger says about these runs. Rows are written only where something
-- changed, so that Realtime sends no empty news; the queue's rows first, in key order, then the
-- instances'. A pending row is somebody's command: only intake, which takes it, writes over it.
-- `first_too`: who has no row of an instance gets one.
create or replace function sluice.write_instances(runs uuid[], first_too boolean)
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  taking constant boolean := coalesce(current_setting('sluice.taking', true), '') = 'on';
begin
  with shown as materialized (
    select shown.*
    from sluice.shown_run as shown
    where shown.run_id = any (runs)
    order by shown.user_id
  ),
  queued as (
    update public.evolution_instance_creation_queue as queue
    set status = shown.status, error_message = shown.error_message, retry_count = shown.retry_count,
      processed_at = shown.processed_at, updated_at = now()
    from shown
    where shown.is_asked_for
      and queue.user_id = shown.user_id
      and (queue.status, queue.error_message, queue.retry_count, queue.processed_at)
        is distinct from (shown.status, shown.error_message, shown.retry_count, shown.processed_at)
      and (queue.status <> 'pending' or taking)
    returning queue.user_id
  ),
  written as (
    update public.evolution_instances as instance
    set instance_name = shown.name,
      webhook_url = shown.webhook_url,
      instance_token = shown.token,
      instance_status = case when shown.has_seen_it then shown.instance_status else instance.instance_status end,
      qr_code = case when shown.has_seen_it then shown.qr_code else instance.qr_code end,
      phone_number = case
        when shown.has_seen_it and shown.knows_phone_number then shown.phone_number
        else instance.phone_number
      end,
      last_qr_update = case
        when not shown.has_seen_it or shown.qr_code is not distinct from instance.qr_code then instance.last_qr_update
        when shown.qr_code is not null then now()
      end,
      updated_at = now()
    from shown
    where instance.user_id = shown.user_id
      -- After the queue's rows, as in intake.
      and (select count(*) from queued) >= 0
      and (
        (instance.instance_name, instance.webhook_url, instance.instance_token)
          is distinct from (shown.name, shown.webhook_url, shown.token)
        or (
          shown.has_seen_it
          and (
            (instance.instance_status, instance.qr_code) is distinct from (shown.instance_status, shown.qr_code)
            or shown.knows_phone_number and instance.phone_number is distinct from shown.phone_number
          )
        )
      )
    returning instance.user_id
  )
  insert into public.evolution_instances
    (user_id, instance_name, instance_status, qr_code, phone_number, webhook_url, instance_token, last_qr_update)
  select shown.user_id, shown.name, shown.instance_status, shown.qr_code, shown.phone_number, shown.webhook_url, shown.token,
    case when shown.qr_code is not null then now() end
  from shown
  where first_too
    and (select count(*) from written) >= 0
    and not exists (
      select from public.evolution_instances as there
      where there.user_id = shown.user_id
    )
  order by shown.user_id;
end
$$;

-- The projection of provision-instance: all at once; where that has failed, one by one and with
-- more care.
create or replace function sluice.project_instances(runs uuid[])
returns void
language plpgsql
set search_path = ''
as $$
begin
  if coalesce(current_setting('sluice.singly', true), '') <> 'on' then
    perform sluice.write_instances(runs, true);
    return;
  end if;

  -- A name that is ours stands in another user's row, who forged it: that row gets the name that is
  -- its own.
  update public.evolution_instances as forged
  set instance_name = coalesce(
    (
      select own.name
      from sluice.resource as own
      where own.subject = forged.user_id::text
        and own.workflow = 'provision-instance'
      limit 1
    ),
    'user_' || forged.user_id
  )
  from sluice.shown_run as shown
  where shown.run_id = any (runs)
    and forged.instance_name = shown.name
    and forged.user_id <> shown.user_id;
  begin
    perform sluice.write_instances(runs, true);
  exception
    -- The user is gone: there is nobody to show an instance to.
    when foreign_key_violation then
      perform sluice.write_instances(runs, false);
  end;
end
$$;

-- Announcements -----------------------------------------------------------------------------------

insert into sluice.announcement (workflow, state, type, routing_key)
values ('provision-instance', 'succeeded', 'sluice.instance.ready.v1', 'instance.ready')
on conflict (workflow, state) do update
set type = excluded.type, routing_key = excluded.routing_key;

-- Announces something of an instance: as an event of the run that is under way on it, else of the
-- instance itself. `more` is what the event says beside run, subject and resource.
create or replace function sluice.announce_found(held sluice.resource, what text, more jsonb)
returns void
language plpgsql
set search_path = ''
as $$
declare
  found_by sluice.run;
begin
  update sluice.run as finder
  set events = finder.events + 1
  where finder.id = announce_found.held.run_id
    and finder.workflow = 'provision-instance'
  returning *
  into found_by;
  if found then
    insert into sluice.event (run_id, sequence, type, routing_key, payload, traceparent)
    values (
      found_by.id, found_by.events, 'sluice.' || announce_found.what || '.v1', announce_found.what,
      jsonb_build_object(
        'run', found_by.id, 'workflow', found_by.workflow, 'version', found_by.version, 'subject', found_by.subject,
        'resource', found_by.resource
      ) || announce_found.more,
      found_by.traceparent
    );
  else
    perform sluice.announce_instance(announce_found.held.name, announce_found.held.subject, announce_found.what);
  end if;
end
$$;

-- Announces what the memory of an instance says anew: that it is gone from the API; that it is
-- linked to a phone, or no longer is, where a run or an event of the API's says so; how its webhook
-- there was found changed. The first and the last once each, until a run has verified the instance
-- again.
create or replace function sluice.announce_change()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if new.memory ->> 'gone' = 'true' and old.memory ->> 'gone' is distinct from 'true' then
    perform sluice.announce_found(new, 'instance.gone', '{}');
  end if;
  if (coalesce(new.memory ->> 'status', '') = 'connected') <> (coalesce(old.memory ->> 'status', '') = 'connected') then
    perform sluice.announce_found(
      new, case new.memory ->> 'status' when 'connected' then 'instance.connected' else 'instance.disconnected' end, '{}'
    );
  end if;
  if new.run_id is not null
    and jsonb_typeof(new.memory -> 'webhook_drift') = 'object'
    and new.memory -> 'webhook_drift' is distinct from old.memory -> 'webhook_drift'
  then
    perform sluice.announce_found(new, 'webhook.drift', new.memory -> 'webhook_drift');
  end if;
  return null;
end
$$;
revoke all
  on function sluice.announce_change()
  from public;

-- Its condition is short: Postgres reads it from its text again in every statement that writes.
create or replace trigger announce_change
  after update of memory
  on sluice.resource
  for each row
  when (new.memory <> old.memory)
  execute function sluice.announce_change();

-- What the API itself reports ---------------------------------------------------------------------

-- What the API's own events last said of an instance. Their moments are by the API's clock, which
-- may be another zone's: they are compared with each other only.
create table if not exists sluice.heard (
  resource text primary key,
  status_at timestamptz,
  -- connecting, connected, disconnected, gone
  status text,
  -- When a socket last opened or ended: an older QR code is of no use.
  ended_at timestamptz,
  qr_at timestamptz,
  number_at timestamptz,
  -- How many events the instance has announced between its runs.
  events integer not null default 0
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- Announces what has become of an instance between its runs. Nothing where no event was ever heard
-- of it. The caller has its resource locked.
create or replace function sluice.announce_instance(name text, subject text, what text)
returns void
language sql
set search_path = ''
as $$
  with counted as (
    update sluice.heard as heard
    set events = heard.events + 1
    where heard.resource = announce_instance.name
    returning heard.events
  )
  insert into sluice.event (run_id, sequence, type, routing_key, payload)
  select md5('instance/' || announce_instance.name)::uuid, counted.events,
    'sluice.' || announce_instance.what || '.v1', announce_instance.what,
    jsonb_build_object('subject', announce_instance.subject, 'resource', announce_instance.name)
  from counted
$$;

-- Takes in what the API reports: of each kind what is newer than what was heard before, so that
-- neither order nor repetition matters. Memory and app's row are written where something changes,
-- and then together. An instance that the app has no row for is passed over. Answers with those
-- that cannot be written now: nothing of them was taken. An attempt that began before a report may
-- settle afterwards with what it saw earlier: the report's values stay. Safe with any number of
-- callers.
create or replace function sluice.hear(reports jsonb)
returns table (instance text, error text)
language plpgsql
set search_path = ''
set lock_timeout = '50ms'
as $$
#variable_conflict use_column
declare
  order_of_status constant text[] := '{connecting,connected,disconnected,gone}';
  latest constant timestamptz := now() + interval '1 day';
  earliest constant timestamptz := now() - interval '12 hours';
  told record;
  held sluice.resource;
  heard sluice.heard;
  known jsonb;
begin
  perform set_config('sluice.projecting', 'on', true);
  for told in
    -- No time zone is a whole day ahead, so such a date comes from a clock that was set wrong. It
    -- counts as said when any zone would say that at the earliest: later reports are not older.
    select given.instance, given.status, given.qr_code, given.phone_number,
      case when given.status_at > latest then earliest else given.status_at end as status_at,
      case when given.ended_at > latest then earliest else given.ended_at end as ended_at,
      case when given.qr_at > latest then earliest else given.qr_at end as qr_at,
      case when given.number_at > latest then earliest else given.number_at end as number_at
    from jsonb_to_recordset(hear.reports) as given (
      instance text,
      status_at timestamptz,
      status text,
      ended_at timestamptz,
      qr_at timestamptz,
      qr_code text,
      number_at timestamptz,
      phone_number text
    )
    order by given.instance
  loop
    begin
      select resource.*
      into held
      from sluice.resource
      where resource.name = told.instance
        and resource.subject ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
      for no key update;
      continue when not found;
      continue when not exists (
        select
        from public.evolution_instances as instance
        where instance.user_id = held.subject::uuid
          and instance.instance_name = held.name
      );

      insert into sluice.heard (resource)
      values (held.name)
      on conflict do nothing;
      select of_it.*
      into heard
      from sluice.heard as of_it
      where of_it.resource = held.name;

      known := held.memory;
      if told.ended_at > coalesce(heard.ended_at, '-infinity') then
        heard.ended_at := told.ended_at;
        if told.ended_at >= coalesce(heard.qr_at, '-infinity') and known ? 'qr_code' then
          known := known || '{"qr_code": null}';
        end if;
      end if;
      if (told.status_at, array_position(order_of_status, told.status))
        > (coalesce(heard.status_at, '-infinity'), coalesce(array_position(order_of_status, heard.status), 0))
      then
        -- A run that is under way sees for itself, and may have deleted it.
        if told.status = 'gone' and heard.status is distinct from 'gone' and held.run_id is null then
          known := known || '{"gone": true}';
        elsif told.status <> 'gone' and held.run_id is null and known ->> 'gone' = 'true' then
          known := known || '{"gone": null}';
        end if;
        heard.status_at := told.status_at;
        heard.status := told.status;
        known := known || jsonb_build_object(
          'status', case told.status when 'gone' then 'disconnected' else told.status end,
          'reason', null
        );
      end if;
      -- Also where it is over since.
      if told.status = 'connected' or told.number_at is not null then
        known := known || '{"paired": true}';
      end if;
      if told.qr_at > coalesce(heard.qr_at, '-infinity') then
        heard.qr_at := told.qr_at;
        known := known || jsonb_build_object(
          'qr_code', case when told.qr_at > coalesce(heard.ended_at, '-infinity') then told.qr_code end
        );
      end if;
      if told.number_at > coalesce(heard.number_at, '-infinity') then
        heard.number_at := told.number_at;
        known := known || jsonb_build_object('phone_number', told.phone_number);
      end if;

      update sluice.heard as before
      set status_at = heard.status_at, status = heard.status, ended_at = heard.ended_at, qr_at = heard.qr_at,
        number_at = heard.number_at
      where before.resource = held.name
        and (before.status_at, before.status, before.ended_at, before.qr_at, before.number_at)
          is distinct from (heard.status_at, heard.status, heard.ended_at, heard.qr_at, heard.number_at);
      continue when not found and known = held.memory;
      update sluice.resource as remembered
      set memory = known, heard_at = now(), heard = '{status,reason,qr_code,phone_number,paired}'
      where remembered.name = held.name;
      if known <> held.memory then
        perform sluice.show_heard(held.name);
      end if;
    exception
      when others then
        instance := told.instance;
        error := sqlerrm;
        return next;
    end;
  end loop;
  perform set_config('sluice.projecting', '', true);
end
$$;

-- Makes the app's row of an instance what its memory says of its connection.
create or replace function sluice.show_heard(name text)
returns void
language sql
set search_path = ''
as $$
  update public.evolution_instances as instance
  set instance_status = shown.status,
    qr_code = shown.qr_code,
    phone_number = case when shown.knows_phone_number then shown.phone_number else instance.phone_number end,
    last_qr_update = case
      when shown.qr_code is not distinct from instance.qr_code then instance.last_qr_update
      when shown.qr_code is not null then now()
    end,
    updated_at = now()
  from (
    select held.subject::uuid as user_id,
      held.memory ->> 'status' as status,
      case when held.memory ->> 'status' = 'connecting' then held.memory ->> 'qr_code' end as qr_code,
      held.memory ->> 'phone_number' as phone_number,
      held.memory ? 'phone_number' as knows_phone_number
    from sluice.resource as held
    where held.name = show_heard.name
  ) as shown
  where instance.user_id = shown.user_id
    and shown.status is not null
    and (
      (instance.instance_status, instance.qr_code) is distinct from (shown.status, shown.qr_code)
      or shown.knows_phone_number and instance.phone_number is distinct from shown.phone_number
    )
$$;

do $$
begin
  perform sluice.plan_once('{write_instances,project_instances,hear}');
end
$$;

-- The functions of this file and the one before it are the services', too: `sluice migrate` gives
-- them their rights at its end.
do $$
begin
  if coalesce(current_setting('sluice.migrating', true), '') <> 'on' then
    perform sluice.adapt_and_tell();
  end if;
end
$$;

-- How far the schema is: roles begin once it is as far as they need. Each file that is added ends
-- with a line of its own, which no older file takes back.
insert into sluice.setting as setting (name, value, note)
values ('schema', '20261122000010', 'The newest migration that has been applied to its end.')
on conflict (name) do update
  set value = greatest(setting.value, excluded.value);
