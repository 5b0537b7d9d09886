-- What a ledger looks like after a million sign-ups, or with a hundred thousand that wait: rows as
-- the services leave them. The only place where the bench knows the ledger's columns. Nothing here
-- is measured.

create schema bench;

-- Pages of steps are written fuller than the services fill them, by so many percent. A step grows
-- until its end, so that the pages which the services leave have no room for a new one, and what
-- vacuum frees lies together: after 20,000 runs that were served, the 6,000 steps of a burst came
-- to lie on 708 pages, 330 of them older. Written as they end, steps would leave room for one new
-- step on each page, and a burst would read and write 6,000 old pages.
create function bench.fill_steps(more integer)
returns void
language plpgsql
as $$
declare
  factor constant integer := (
    select option_value
    from pg_class
    cross join pg_options_to_table(reloptions)
    where pg_class.oid = 'sluice.step'::regclass
      and option_name = 'fillfactor'
  );
begin
  execute format('alter table sluice.step set (fillfactor = %s)', factor + more);
end
$$;
select bench.fill_steps(5);

-- Sign-up number n: two seconds after the one before, the first of them 25 days ago, so that
-- nothing is old enough to be pruned. The id of its run begins with its moment, as a uuid v7 does;
-- users' ids are random, as Supabase's are.
create function bench.sign_ups(first bigint, number bigint)
returns table (n bigint, at timestamptz, user_id uuid, run_id uuid, name text)
language sql
stable
as $$
  select
    n,
    moment.at,
    md5('user ' || n)::uuid,
    (lpad(to_hex((extract(epoch from moment.at) * 1000)::bigint), 12, '0') || '7' || left(md5('run ' || n), 3)
      || '8' || right(md5('run ' || n), 15))::uuid,
    'user_' || md5('user ' || n)::uuid
  from generate_series(first, first + number - 1) as n
  cross join lateral (
    select date_trunc('day', now()) - interval '25 days' + n * interval '2 seconds' as at
  ) as moment
$$;

-- The app's rows, the public ones and the resource. No trigger and no foreign key is asked: this
-- writes both sides.
create function bench.people(first bigint, number bigint, status text, instance_status text, lasted interval)
returns void
language sql
set session_replication_role = 'replica'
as $$
  insert into auth.users (id, email, created_at)
  select user_id, user_id || '@example.org', at
  from bench.sign_ups(first, number);

  insert into public.profiles (id, created_at, updated_at)
  select user_id, at, at
  from bench.sign_ups(first, number);

  insert into public.evolution_instance_creation_queue (user_id, status, created_at, updated_at, processed_at)
  select user_id, status, at, at + coalesce(lasted, interval '0'), at + lasted
  from bench.sign_ups(first, number);

  insert into public.evolution_instances
    (user_id, instance_name, instance_status, webhook_url, instance_token, created_at, updated_at)
  select user_id, name, instance_status, 'https://example.org/hook', run_id::text, at, at
  from bench.sign_ups(first, number);

  insert into sluice.resource (name, subject, workflow, run_id, exclusive_at, secret, memory, created_at)
  select name, user_id::text, 'provision-instance', case when lasted is null then run_id end, at, run_id::text,
    jsonb_build_object('status', instance_status, 'webhook_url', 'https://example.org/hook'), at
  from bench.sign_ups(first, number);
$$;

-- Runs that ended well: each has three steps, one attempt of each step, and three announcements.
create function bench.finished(first bigint, number bigint)
returns void
language sql
set session_replication_role = 'replica'
as $$
  select bench.people(first, number, 'completed', 'disconnected', interval '0.2 s');

  insert into sluice.run (id, workflow, version, subject, resource, state, deadline_at, deadline_from, events, requested_at,
    created_at, ended_at)
  select run_id, 'provision-instance', 1, user_id::text, name, 'succeeded', at + interval '1 day', at, 3, at, at,
    at + interval '0.2 s'
  from bench.sign_ups(first, number);

  insert into sluice.step (run_id, position, name, state, started_at, attempts, output)
  select run_id, position, step, 'succeeded', at + position * interval '50 ms', 1,
    jsonb_build_object('instance', name)
  from bench.sign_ups(first, number)
  cross join (values (0, 'create-instance'), (1, 'configure-webhooks'), (2, 'verify')) as steps (position, step);

  insert into sluice.attempt (run_id, position, step, token, worker, started_at, ended_at, outcome)
  select run_id, position, step, n * 3 + position, 'worker-history-1', at + position * interval '50 ms',
    at + position * interval '50 ms' + interval '40 ms', 'succeeded'
  from bench.sign_ups(first, number)
  cross join (values (0, 'create-instance'), (1, 'configure-webhooks'), (2, 'verify')) as steps (position, step);

  insert into sluice.event (run_id, sequence, type, routing_key, payload, created_at, published_at)
  select run_id, sequence, type, key, jsonb_build_object('run', run_id, 'subject', user_id),
    at + interval '0.2 s', at + interval '0.3 s'
  from bench.sign_ups(first, number)
  cross join (
    values (1, 'sluice.run.started.v1', 'provision-instance.started'),
      (2, 'sluice.run.succeeded.v1', 'provision-instance.succeeded'),
      (3, 'sluice.instance.ready.v1', 'instance.ready')
  ) as events (sequence, type, key);
$$;

-- Runs whose first step has failed a few times and is due again in two hours.
create function bench.waiting(first bigint, number bigint)
returns void
language sql
set session_replication_role = 'replica'
as $$
  select bench.people(first, number, 'processing', 'creating', null);

  insert into sluice.run (id, workflow, version, subject, resource, state, deadline_at, requested_at, created_at)
  select run_id, 'provision-instance', 1, user_id::text, name, 'active', now() + interval '1 day', at, at
  from bench.sign_ups(first, number);

  insert into sluice.step (run_id, position, name, state, generation, due_at, failures, attempts, error)
  select run_id, 0, 'create-instance', 'due', 4, now() + interval '2 hours', 3, 3, 'HTTP 500'
  from bench.sign_ups(first, number);
$$;
