-- The public face, part one: the two tables in the user's app whose rows follow the ledger. This
-- file looks at what is there and refuses what it cannot build on. It makes the tables where they
-- are missing, and changes none that is there: `sluice.adapt()` (a later file) does that. May be
-- run again at any time.

create schema if not exists sluice;

revoke all
  on schema sluice
  from public;

-- The column of public.profiles that holds the user's id: `id`, else the one that refers to
-- auth.users, else `user_id`. Null where there is no such table or column. Asked at each first
-- claim, so its plan has to be kept: that of a function in SQL is made in every call.
create or replace function sluice.profiles_key()
returns name
language plpgsql
stable
set search_path = ''
as $$
begin
  if exists (
    select
    from pg_catalog.pg_attribute as held
    join pg_catalog.pg_class as class
      on class.oid = held.attrelid
    where held.attrelid = to_regclass('public.profiles')
      and held.attname = 'id'
      and held.atttypid = 'uuid'::regtype
      and class.relkind in ('r', 'p')
  ) then
    return 'id';
  end if;
  return (
    select held.attname
    from pg_catalog.pg_class as class
    join pg_catalog.pg_attribute as held
      on held.attrelid = class.oid
    where class.oid = to_regclass('public.profiles')
      and class.relkind in ('r', 'p')
      and held.atttypid = 'uuid'::regtype
      and held.attnum > 0
      and not held.attisdropped
      and (
        held.attname = 'user_id'
        or exists (
          select
          from pg_catalog.pg_constraint as key
          join pg_catalog.pg_class as users
            on users.oid = key.confrelid
            and users.relname = 'users'
          join pg_catalog.pg_namespace as auth
            on auth.oid = users.relnamespace
            and auth.nspname = 'auth'
          where key.conrelid = class.oid
            and key.contype = 'f'
            and key.conkey = array[held.attnum]
        )
      )
    order by held.attname = 'user_id'
    limit 1
  );
end
$$;

-- The auth server's users, where the caller may use its schema. `to_regclass` would raise where
-- not.
create or replace function sluice.auth_users()
returns regclass
language plpgsql
stable
set search_path = ''
as $$
begin
  return case when has_schema_privilege(to_regnamespace('auth'), 'usage') then to_regclass('auth.users') end;
end
$$;

-- Supabase's `auth.uid()`, under the same condition.
create or replace function sluice.auth_uid()
returns oid
language sql
stable
set search_path = ''
as $$
  select function.oid
  from pg_catalog.pg_proc as function
  join pg_catalog.pg_namespace as auth
    on auth.oid = function.pronamespace
  where auth.nspname = 'auth'
    and function.proname = 'uid'
    and function.pronargs = 0
    and has_schema_privilege(auth.oid, 'usage')
$$;

-- For the owner only: what is there and cannot be built on, and what mends it. Changes nothing. No
-- row: all fits.
create or replace function sluice.unfit()
returns table (problem text, mend text)
language plpgsql
stable
set search_path = ''
as $$
declare
  profiles constant regclass := to_regclass('public.profiles');
  face record;
begin
  if profiles is not null then
    return query
    select
      'public.profiles is no table',
      'Sluice queues a sign-up by a trigger on a table of this name: rename the table to it, or the view away'
    from pg_catalog.pg_class
    where oid = profiles
      and relkind not in ('r', 'p');
    return query
    select
      format(
        'public.profiles has no column that holds the user''s id as uuid (id is %s)',
        coalesce(
          (
            select format_type(atttypid, atttypmod)
            from pg_catalog.pg_attribute
            where attrelid = profiles
              and attname = 'id'
              and not attisdropped
          ),
          'missing'
        )
      ),
      'give it one: id uuid, user_id uuid, or one of any name that refers to auth.users (id)'
    from pg_catalog.pg_class
    where oid = profiles
      and relkind in ('r', 'p')
      and sluice.profiles_key() is null;
    return query
    select
      format('public.profiles belongs to %s, and %s may not put a trigger on it', relowner::regrole, current_user),
      format('as that role: grant trigger, references, select on public.profiles to %I', current_user)
    from pg_catalog.pg_class
    where oid = profiles
      and relkind in ('r', 'p')
      and not has_table_privilege(current_user, profiles, 'trigger');
  end if;

  return query
  select
    format('public.handle_profile_evolution_instance() belongs to %s, and %s may not replace it', proowner::regrole, current_user),
    format('alter function public.handle_profile_evolution_instance() owner to %I', current_user)
  from pg_catalog.pg_proc
  where oid = to_regprocedure('public.handle_profile_evolution_instance()')
    and not pg_has_role(current_user, proowner, 'usage');

  for face in
    select
      class.oid::regclass as relation,
      class.relkind,
      class.relowner,
      names.required,
      names.written
    from (
      values
        (
          'evolution_instance_creation_queue',
          array['user_id'],
          array['id', 'user_id', 'request_id', 'status', 'retry_count', 'created_at', 'updated_at', 'traceparent']
        ),
        (
          'evolution_instances',
          array['user_id', 'instance_name', 'webhook_url'],
          array['id', 'user_id', 'instance_name', 'instance_status', 'webhook_url', 'instance_token', 'created_at', 'updated_at']
        )
    ) as names (name, required, written)
    join pg_catalog.pg_class as class
      on class.oid = to_regclass('public.' || names.name)
  loop
    if face.relkind not in ('r', 'p') then
      problem := format('public.%s is no table', face.relation);
      mend := 'rename it away, so that the table can be made; Sluice keeps its columns as the guide has them';
      return next;
      continue;
    end if;
    return query
    select
      format('%s belongs to %s, and %s may not change it', face.relation, face.relowner::regrole, current_user),
      format('alter table %s owner to %I, or migrate as its owner', face.relation, current_user)
    where not pg_has_role(current_user, face.relowner, 'usage');
    return query
    select
      format('%s has no column %s', face.relation, wanted.name),
      format('add it as the guide has it (%s)', case wanted.name when 'user_id' then 'uuid not null' else 'text not null' end)
    from unnest(face.required) as wanted (name)
    where not exists (
      select
      from pg_catalog.pg_attribute
      where attrelid = face.relation
        and attname = wanted.name
        and not attisdropped
    );
    return query
    select
      format('%s.%s is %s', face.relation, held.attname, format_type(held.atttypid, held.atttypmod)),
      format('make it %s', wanted.kind)
    from (
      values
        ('user_id', 'uuid', array['uuid']),
        ('request_id', 'uuid', array['uuid', 'text']),
        ('retry_count', 'integer', array['int2', 'int4', 'int8']),
        ('error_message', 'text', array['text', 'varchar']),
        ('traceparent', 'text', array['text', 'varchar']),
        ('instance_name', 'text', array['text', 'varchar']),
        ('instance_token', 'text', array['text', 'varchar']),
        ('webhook_url', 'text', array['text', 'varchar']),
        ('qr_code', 'text', array['text', 'varchar']),
        ('phone_number', 'text', array['text', 'varchar']),
        ('status', 'text', array['text', 'varchar']),
        ('instance_status', 'text', array['text', 'varchar']),
        ('created_at', 'timestamptz', array['timestamptz', 'timestamp']),
        ('updated_at', 'timestamptz', array['timestamptz', 'timestamp']),
        ('processed_at', 'timestamptz', array['timestamptz', 'timestamp']),
        ('last_qr_update', 'timestamptz', array['timestamptz', 'timestamp'])
    ) as wanted (name, kind, kinds)
    join pg_catalog.pg_attribute as held
      on held.attrelid = face.relation
      and held.attname = wanted.name
      and not held.attisdropped
    join pg_catalog.pg_type as type
      on type.oid = held.atttypid
    where type.typname <> all(wanted.kinds)
      -- A column `status` of an instance that the app made is the app's.
      and not (wanted.name = 'status' and face.relation = to_regclass('public.evolution_instances'));
    return query
    select
      format('%s.%s may not be null and has no default, so that no row of Sluice''s would be taken', face.relation, held.attname),
      format('alter table %s alter column %I drop not null, or give it a default', face.relation, held.attname)
    from pg_catalog.pg_attribute as held
    where held.attrelid = face.relation
      and held.attnum > 0
      and held.attnotnull
      and not held.atthasdef
      and held.attidentity = ''
      and not held.attisdropped
      and (held.attname <> all(face.written) or (held.attname = 'id' and held.atttypid <> 'uuid'::regtype));
  end loop;
end
$$;

comment on function sluice.unfit() is 'For the owner only: what cannot be built on, and what mends it.';

-- Before the first change to what is the app's, and all that is wrong at once.
do $$
declare
  found text;
begin
  select string_agg(format('%s. To mend it: %s.', problem, mend), E'\n')
  into found
  from sluice.unfit();
  if found is not null then
    raise exception using
      errcode = 'SL001',
      message = found,
      hint = 'Nothing of the app''s was changed. Mend this, then migrate again.';
  end if;
end
$$;

-- Facts and switches that SQL itself reads. Written by the owner only.
create table if not exists sluice.setting (
  name text primary key,
  value text not null,
  note text
);

insert into sluice.setting (name, value, note)
values
  (
    'adopted_at',
    to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'When Sluice took over this database. What it found is in sluice.adoption; this moment decides nothing.'
  ),
  (
    'intake_notify',
    'on',
    'on: a sign-up wakes a relay that sleeps at its commit (NOTIFY commits one at a time). off: relays only poll.'
  ),
  (
    'instances_status_column',
    case
      when exists (
        select
        from pg_catalog.pg_attribute
        where attrelid = to_regclass('public.evolution_instances')
          and attname = 'status'
          and not attisdropped
      ) then 'of the app'
      else 'ours'
    end,
    'ours: evolution_instances.status repeats instance_status. of the app: Sluice does not write it.'
  )
on conflict (name) do nothing;

-- For the owner only: the two tables, where they are missing.
create or replace function sluice.make_tables()
returns void
language plpgsql
set search_path = ''
as $function$
begin
  if to_regclass('public.evolution_instance_creation_queue') is null then
    create table public.evolution_instance_creation_queue (
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
    -- Rows are updated several times in their first second: leave room for that on the page, and
    -- tidy up early.
    with (
      fillfactor = 70,
      autovacuum_vacuum_scale_factor = 0.01,
      autovacuum_vacuum_threshold = 100,
      autovacuum_analyze_scale_factor = 0.02
    );
    comment on table public.evolution_instance_creation_queue is
      'One row per sign-up. Follows Sluice''s ledger; status pending (and retry_count 0) written by hand is a command.';
    comment on column public.evolution_instance_creation_queue.traceparent is
      'W3C trace context that the app gave at sign-up. Whether the trace is recorded is the relay''s decision.';
  end if;

  if to_regclass('public.evolution_instances') is null then
    create table public.evolution_instances (
      id uuid primary key default gen_random_uuid(),
      user_id uuid not null unique,
      instance_name text not null unique,
      instance_status text not null default 'creating'
        check (instance_status in ('creating', 'disconnected', 'connecting', 'connected', 'error')),
      status text,
      qr_code text,
      phone_number text,
      webhook_url text not null,
      instance_token text,
      last_qr_update timestamptz,
      created_at timestamptz not null default now(),
      updated_at timestamptz not null default now()
    );
    comment on table public.evolution_instances is
      'One WhatsApp instance per user. Follows Sluice''s ledger and is never an input to it.';
    comment on column public.evolution_instances.status is 'Repeats instance_status, whatever is written here.';
  end if;
end
$function$;

comment on function sluice.make_tables() is 'For the owner only: makes the two public tables where they are missing.';

do $$
begin
  perform sluice.make_tables();
end
$$;

-- An instance's `status`, which the guide reads, repeats `instance_status`, which the app and
-- Sluice write. An ordinary column, so that a row that was read can be written back whole. Its name
-- sorts last, so that it sees what the app's triggers made of the row. Never raises. While
-- `sluice.fill_status` fills old rows, nothing but `status` changes.
create or replace function sluice.keep_status()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  begin
    if tg_op = 'UPDATE' and current_setting('sluice.filling', true) = 'on' then
      old.status := old.instance_status;
      return old;
    end if;
    new.status := new.instance_status;
  exception
    when others then
      raise warning 'sluice: status of an instance was not kept: %', sqlerrm;
  end;
  return new;
end
$$;

-- For the owner only: gives up to `most` rows that were there before the column their status, and
-- returns how many. Rows that somebody has locked are left for the next call.
create or replace function sluice.fill_status(most integer)
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  filled bigint;
begin
  perform set_config('sluice.filling', 'on', true);
  update public.evolution_instances
  set status = instance_status
  where ctid = any(array(
    select ctid
    from public.evolution_instances
    where status is distinct from instance_status
    limit most
    for no key update skip locked
  ));
  get diagnostics filled = row_count;
  perform set_config('sluice.filling', '', true);
  return filled;
end
$$;

comment on function sluice.fill_status(integer) is 'For the owner only: gives old instances their status.';

-- Whether an index on this table may be built where it stands: what takes a few milliseconds only.
-- A larger table is indexed without a lock, by `sluice migrate`.
create or replace function sluice.is_small(relation regclass)
returns boolean
language sql
stable
set search_path = ''
as $$
  select pg_catalog.pg_table_size(relation) <= 1024 * 1024
$$;

-- What the two tables should have, whether they have it, and the statement that gives it to them.
-- None rewrites or reads a table, but for indexes on small ones.
create or replace function sluice.wanted_tables()
returns table (rank integer, item text, present boolean, change text, without text, mend text)
language plpgsql
stable
set search_path = ''
as $$
declare
  queue constant regclass := to_regclass('public.evolution_instance_creation_queue');
  instances constant regclass := to_regclass('public.evolution_instances');
  status_is_ours constant boolean := coalesce(
    (select value = 'ours' from sluice.setting where name = 'instances_status_column'),
    true
  );
begin
  return query
  select
    10,
    'table public.' || wanted.name,
    wanted.relation is not null,
    'select sluice.make_tables()',
    'sign-ups have nowhere to go',
    'run `sluice migrate` as a role that may create tables in schema public'
  from (
    values
      ('evolution_instance_creation_queue', queue),
      ('evolution_instances', instances)
  ) as wanted (name, relation);

  return query
  select
    11,
    format('column %s.%s', wanted.relation, wanted.name),
    held.attname is not null,
    format('alter table %s add column %I %s', wanted.relation, wanted.name, wanted.type)
      || case when wanted.value is null then '' else format(' default %s', wanted.value) end,
    'Sluice cannot write its rows',
    'add it as its owner'
  from (
    values
      (queue, 'request_id', 'uuid', null),
      (queue, 'error_message', 'text', null),
      (queue, 'retry_count', 'int not null', '0'),
      (queue, 'created_at', 'timestamptz not null', 'now()'),
      (queue, 'updated_at', 'timestamptz not null', 'now()'),
      (queue, 'processed_at', 'timestamptz', null),
      (queue, 'traceparent', 'text', null),
      -- Without a default: rows that are there say null (not known) until the ledger or the API
      -- says more.
      (instances, 'instance_status', 'text', null),
      (instances, 'qr_code', 'text', null),
      (instances, 'phone_number', 'text', null),
      (instances, 'instance_token', 'text', null),
      (instances, 'last_qr_update', 'timestamptz', null),
      (instances, 'created_at', 'timestamptz not null', 'now()'),
      (instances, 'updated_at', 'timestamptz not null', 'now()'),
      (
        instances,
        case when status_is_ours then 'status' end,
        coalesce(
          (
            select format_type(atttypid, atttypmod)
            from pg_catalog.pg_attribute
            where attrelid = instances
              and attname = 'instance_status'
              and not attisdropped
          ),
          'text'
        ),
        null
      )
  ) as wanted (relation, name, type, value)
  left join pg_catalog.pg_attribute as held
    on held.attrelid = wanted.relation
    and held.attname = wanted.name
    and not held.attisdropped
  where wanted.relation is not null
    and wanted.name is not null;

  -- The replaced set-up always named request_id and status itself.
  return query
  select
    12,
    format('default of %s.%s', wanted.relation, wanted.name),
    held.atthasdef or held.attidentity <> '',
    format('alter table %s alter column %I set default %s', wanted.relation, wanted.name, wanted.value),
    'sign-ups may not be queued',
    'set it as the table''s owner'
  from (
    values
      (queue, 'id', 'gen_random_uuid()'),
      (queue, 'request_id', 'gen_random_uuid()'),
      (queue, 'status', '''pending'''),
      (queue, 'retry_count', '0'),
      (queue, 'created_at', 'now()'),
      (queue, 'updated_at', 'now()'),
      (instances, 'id', 'gen_random_uuid()'),
      (instances, 'instance_status', '''creating'''),
      (instances, 'created_at', 'now()'),
      (instances, 'updated_at', 'now()')
  ) as wanted (relation, name, value)
  join pg_catalog.pg_attribute as held
    on held.attrelid = wanted.relation
    and held.attname = wanted.name
    and not held.attisdropped;

  -- The queue's four states. A check that allows them all stays, whatever else it allows; one that
  -- forbids any of them would refuse our rows for ever, and goes. Rows that break the new one are
  -- kept and reported.
  return query
  select
    13,
    format('no check %s on %s that forbids a status of the guide', refusing.conname, queue),
    false,
    format('alter table %s drop constraint %I', queue, refusing.conname),
    'Sluice''s rows are refused',
    'drop it as the table''s owner'
  from pg_catalog.pg_constraint as refusing
  join pg_catalog.pg_attribute as status
    on status.attrelid = refusing.conrelid
    and status.attname = 'status'
  where refusing.conrelid = queue
    and refusing.contype = 'c'
    and refusing.conkey = array[status.attnum]
    and not (
      pg_get_constraintdef(refusing.oid) like all (
        array['%''pending''%', '%''processing''%', '%''completed''%', '%''failed''%']
      )
    );
  return query
  select
    14,
    format('a check of %s.status', queue),
    type.typtype = 'e' or exists (
      select
      from pg_catalog.pg_constraint as checking
      where checking.conrelid = queue
        and checking.contype = 'c'
        and checking.conkey = array[status.attnum]
    ),
    format(
      'alter table %s add constraint evolution_instance_creation_queue_status_check
        check (status in (''pending'', ''processing'', ''completed'', ''failed'')) not valid',
      queue
    ),
    'a status that nobody knows would be taken',
    'add it as the table''s owner'
  from pg_catalog.pg_attribute as status
  join pg_catalog.pg_type as type
    on type.oid = status.atttypid
  where status.attrelid = queue
    and status.attname = 'status';

  -- One row per user, one user per name; and what intake reads.
  return query
  select
    15,
    format('unique %s.%s', wanted.relation, wanted.name),
    exists (
      select
      from pg_catalog.pg_index as index_row
      where index_row.indrelid = wanted.relation
        and index_row.indisunique
        and index_row.indisvalid
        and index_row.indpred is null
        and index_row.indnkeyatts = 1
        and index_row.indkey[0] = held.attnum
    ),
    case when sluice.is_small(wanted.relation) then format('alter table %s add unique (%I)', wanted.relation, wanted.name) end,
    'a user may get several rows, and Sluice cannot write theirs',
    format('keep one row of each %s, then run `sluice migrate`', wanted.name)
  from (
    values
      (queue, 'user_id'),
      (instances, 'user_id'),
      (instances, 'instance_name')
  ) as wanted (relation, name)
  join pg_catalog.pg_attribute as held
    on held.attrelid = wanted.relation
    and held.attname = wanted.name
    and not held.attisdropped;
  return query
  select
    16,
    'index evolution_instance_creation_queue_pending',
    exists (
      select
      from pg_catalog.pg_index
      where indrelid = queue
        and indexrelid = to_regclass('public.evolution_instance_creation_queue_pending')
        and indisvalid
    ),
    case
      when sluice.is_small(queue) then
        format('create index evolution_instance_creation_queue_pending on %s (created_at) where status = ''pending''', queue)
    end,
    'intake reads the whole queue each time',
    'run `sluice migrate`'
  where queue is not null;

  return query
  select
    17,
    format('trigger zz_sluice_keep_status on %s', instances),
    exists (
      select
      from pg_catalog.pg_trigger
      where tgrelid = instances
        and tgname = 'zz_sluice_keep_status'
    ),
    format(
      'create trigger zz_sluice_keep_status before insert or update on %s for each row execute function sluice.keep_status()',
      instances
    ),
    'status of an instance does not follow instance_status',
    'create it as the table''s owner'
  where instances is not null
    and status_is_ours;
end
$$;
