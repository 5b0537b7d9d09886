-- The public face, part one: the two tables in the user's app whose rows follow the ledger. New on a new
-- database; on one of the replaced set-up only what is missing is added, and no row is changed.
-- May be run again at any time. Each DDL statement on the app's tables gives up after half a second rather than
-- make sign-ups queue behind it ("canceling statement due to lock timeout"): run the file again.

create schema if not exists sluice;

revoke all
  on schema sluice
  from public;

-- Facts and switches that SQL itself reads.
create table if not exists sluice.setting (
  name text primary key,
  value text not null,
  note text
);

-- The moment of adoption is the first run's, never a later one's. Profiles older than it are reported, not started.
insert into sluice.setting (name, value, note)
values
  (
    'adopted_at',
    to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'When Sluice took over this database: older profiles are reported by the finder and never started.'
  ),
  (
    'intake_notify',
    'on',
    'on: a sign-up wakes the relay at its commit (NOTIFY commits one at a time). off: the relay only polls.'
  )
on conflict (name) do nothing;

create table if not exists public.evolution_instance_creation_queue (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null unique,
  request_id uuid default gen_random_uuid(),
  status text not null default 'pending'
    constraint evolution_instance_creation_queue_status_check
    check (status in ('pending', 'processing', 'completed', 'failed')),
  error_message text,
  retry_count int not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  processed_at timestamptz,
  traceparent text
)
-- Rows are updated several times in their first second: leave room for that on the page, and tidy up early.
with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 100,
  autovacuum_analyze_scale_factor = 0.02
);

create table if not exists public.evolution_instances (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null unique,
  instance_name text not null unique,
  instance_status text not null default 'creating'
    check (instance_status in ('creating', 'disconnected', 'connecting', 'connected', 'error')),
  status text generated always as (instance_status) stored,
  qr_code text,
  phone_number text,
  webhook_url text not null,
  instance_token text,
  last_qr_update timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

-- Columns that an older table of ours lacks. `instance_status` gets its default after it exists: rows that are
-- there already say null (not known) until the ledger or the API says more.
do $$
declare
  missing record;
begin
  set local lock_timeout = '500ms';
  for missing in
    select
      wanted.relation,
      wanted.name,
      wanted.type
    from (
      values
        ('public.evolution_instance_creation_queue'::regclass, 'request_id', 'uuid'),
        ('public.evolution_instance_creation_queue'::regclass, 'error_message', 'text'),
        ('public.evolution_instance_creation_queue'::regclass, 'retry_count', 'int not null default 0'),
        ('public.evolution_instance_creation_queue'::regclass, 'created_at', 'timestamptz not null default now()'),
        ('public.evolution_instance_creation_queue'::regclass, 'updated_at', 'timestamptz not null default now()'),
        ('public.evolution_instance_creation_queue'::regclass, 'processed_at', 'timestamptz'),
        ('public.evolution_instance_creation_queue'::regclass, 'traceparent', 'text'),
        ('public.evolution_instances'::regclass, 'instance_status', 'text'),
        ('public.evolution_instances'::regclass, 'qr_code', 'text'),
        ('public.evolution_instances'::regclass, 'phone_number', 'text'),
        ('public.evolution_instances'::regclass, 'instance_token', 'text'),
        ('public.evolution_instances'::regclass, 'last_qr_update', 'timestamptz'),
        ('public.evolution_instances'::regclass, 'created_at', 'timestamptz not null default now()'),
        ('public.evolution_instances'::regclass, 'updated_at', 'timestamptz not null default now()')
    ) as wanted (relation, name, type)
    where not exists (
      select
      from pg_catalog.pg_attribute as present
      where present.attrelid = wanted.relation
        and present.attname = wanted.name
        and not present.attisdropped
    )
  loop
    execute format('alter table %s add column %I %s', missing.relation, missing.name, missing.type);
  end loop;
end
$$;

-- Defaults that an older table lacks (the replaced set-up always named request_id and status itself).
do $$
declare
  missing record;
begin
  set local lock_timeout = '500ms';
  for missing in
    select
      wanted.relation,
      wanted.name,
      wanted.value
    from (
      values
        ('public.evolution_instance_creation_queue'::regclass, 'id', 'gen_random_uuid()'),
        ('public.evolution_instance_creation_queue'::regclass, 'request_id', 'gen_random_uuid()'),
        ('public.evolution_instance_creation_queue'::regclass, 'status', '''pending'''),
        ('public.evolution_instance_creation_queue'::regclass, 'retry_count', '0'),
        ('public.evolution_instance_creation_queue'::regclass, 'created_at', 'now()'),
        ('public.evolution_instance_creation_queue'::regclass, 'updated_at', 'now()'),
        ('public.evolution_instances'::regclass, 'id', 'gen_random_uuid()'),
        ('public.evolution_instances'::regclass, 'instance_status', '''creating'''),
        ('public.evolution_instances'::regclass, 'created_at', 'now()'),
        ('public.evolution_instances'::regclass, 'updated_at', 'now()')
    ) as wanted (relation, name, value)
    join pg_catalog.pg_attribute as present
      on present.attrelid = wanted.relation
      and present.attname = wanted.name
    where not present.atthasdef
      and present.attidentity = ''
      and not present.attisdropped
  loop
    execute format(
      'alter table %s alter column %I set default %s',
      missing.relation, missing.name, missing.value
    );
  end loop;
end
$$;

-- The queue's four states. A check that allows them all stays, whatever else it allows; one that forbids any of
-- them would refuse our rows for ever, and is replaced. Rows that break the new check are kept and reported.
do $$
declare
  queue constant regclass := 'public.evolution_instance_creation_queue';
  refusing record;
begin
  set local lock_timeout = '500ms';
  for refusing in
    select constraint_row.conname
    from pg_catalog.pg_constraint as constraint_row
    join pg_catalog.pg_attribute as status
      on status.attrelid = constraint_row.conrelid
      and status.attname = 'status'
    where constraint_row.conrelid = queue
      and constraint_row.contype = 'c'
      and constraint_row.conkey = array[status.attnum]
      and not (
        pg_get_constraintdef(constraint_row.oid) like all (
          array['%''pending''%', '%''processing''%', '%''completed''%', '%''failed''%']
        )
      )
  loop
    raise notice 'sluice: check "%" on % forbids a status that the guide names: it is replaced',
      refusing.conname, queue;
    execute format('alter table %s drop constraint %I', queue, refusing.conname);
  end loop;

  if not exists (
    select
    from pg_catalog.pg_constraint as constraint_row
    join pg_catalog.pg_attribute as status
      on status.attrelid = constraint_row.conrelid
      and status.attname = 'status'
    where constraint_row.conrelid = queue
      and constraint_row.contype = 'c'
      and constraint_row.conkey = array[status.attnum]
  ) then
    alter table public.evolution_instance_creation_queue
      add constraint evolution_instance_creation_queue_status_check
      check (status in ('pending', 'processing', 'completed', 'failed'))
      not valid;
    begin
      alter table public.evolution_instance_creation_queue
        validate constraint evolution_instance_creation_queue_status_check;
    exception
      when check_violation then
        raise notice 'sluice: % has rows with a status that the guide does not name: they are kept as they are', queue;
    end;
  end if;
end
$$;

-- One row per user, one user per name.
do $$
declare
  missing record;
begin
  set local lock_timeout = '500ms';
  for missing in
    select
      wanted.relation,
      wanted.name
    from (
      values
        ('public.evolution_instance_creation_queue'::regclass, 'user_id'),
        ('public.evolution_instances'::regclass, 'user_id'),
        ('public.evolution_instances'::regclass, 'instance_name')
    ) as wanted (relation, name)
    join pg_catalog.pg_attribute as present
      on present.attrelid = wanted.relation
      and present.attname = wanted.name
    where not exists (
      select
      from pg_catalog.pg_index as index_row
      where index_row.indrelid = wanted.relation
        and index_row.indisunique
        and index_row.indisvalid
        and index_row.indpred is null
        and index_row.indnkeyatts = 1
        and index_row.indkey[0] = present.attnum
    )
  loop
    begin
      execute format('alter table %s add unique (%I)', missing.relation, missing.name);
    exception
      when unique_violation then
        raise notice 'sluice: % has several rows with the same %: keep one of each, then run this file again',
          missing.relation, missing.name;
    end;
  end loop;
end
$$;

-- The guide reads `status` of an instance; the app writes and reads `instance_status`. A column `status` that the
-- app made itself is the app's: we neither replace nor write it, and the setting says so to whoever asks.
do $$
declare
  instances constant regclass := 'public.evolution_instances';
  status_type text;
  kind text;
begin
  set local lock_timeout = '500ms';
  if not exists (
    select
    from pg_catalog.pg_attribute
    where attrelid = instances
      and attname = 'status'
      and not attisdropped
  ) then
    select format_type(atttypid, atttypmod)
    into status_type
    from pg_catalog.pg_attribute
    where attrelid = instances
      and attname = 'instance_status';

    execute format(
      'alter table %s add column status %s generated always as (instance_status) stored',
      instances, status_type
    );
  end if;

  select case attgenerated when 's' then 'generated' else 'of the app' end
  into kind
  from pg_catalog.pg_attribute
  where attrelid = instances
    and attname = 'status';

  if kind = 'of the app' then
    raise notice 'sluice: %.status is a column of your own: it is left alone, instance_status is the one that is true',
      instances;
  end if;

  insert into sluice.setting as setting (name, value, note)
  values (
    'instances_status_column',
    kind,
    'generated: evolution_instances.status repeats instance_status. of the app: Sluice does not write it.'
  )
  on conflict (name) do update
    set value = excluded.value
    where setting.value <> excluded.value;
end
$$;

-- What intake claims from; and nobody but the policies' guests gets in over the API, from the first moment on.
do $$
declare
  exposed record;
begin
  set local lock_timeout = '500ms';
  create index if not exists evolution_instance_creation_queue_pending
    on public.evolution_instance_creation_queue (created_at)
    where status = 'pending';

  for exposed in
    select oid::regclass as relation
    from pg_catalog.pg_class
    where oid in (
      'public.evolution_instance_creation_queue'::regclass,
      'public.evolution_instances'::regclass
    )
      and not relrowsecurity
  loop
    execute format('alter table %s enable row level security', exposed.relation);
  end loop;
end
$$;

do $$
begin
  set local lock_timeout = '500ms';
  comment on table public.evolution_instance_creation_queue is
    'One row per sign-up. Follows Sluice''s ledger; status pending (and retry_count 0) written by hand is a command.';
  comment on column public.evolution_instance_creation_queue.traceparent is
    'W3C trace context that the app gave at sign-up. Whether the trace is recorded is the relay''s decision.';
  comment on table public.evolution_instances is
    'One WhatsApp instance per user. Follows Sluice''s ledger and is never an input to it.';
end
$$;
