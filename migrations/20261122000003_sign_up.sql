-- The public face, part two: what happens in the user's sign-up transaction, and how a sign-up that
-- got lost is found. The promise: a sign-up never fails and never waits because of Sluice. No lock
-- is awaited longer than 50 ms (20 times below deadlock_timeout), whatever fails is caught and
-- warned about, and the relay's finder makes up for it. The trigger itself is made by
-- `sluice.adapt()` (a later file). May be run again at any time.

create schema if not exists sluice;

-- The trace context that the app gave for this user, or null. Sources, the first valid one wins:
-- the user's metadata (`signUp({ options: { data: { traceparent } } })`), PostgREST's request
-- headers, the setting app.traceparent. Whoever signs up writes it, so it is a claim: only the
-- plain W3C form passes, its flags are kept as given, and the relay decides about sampling by
-- itself.
create or replace function sluice.sign_up_traceparent(user_id uuid)
returns text
language plpgsql
stable
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  valid constant text := '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$';
  given text;
begin
  if has_any_column_privilege(sluice.auth_users(), 'select') then
    select users.raw_user_meta_data ->> 'traceparent'
    into given
    from auth.users as users
    where users.id = sign_up_traceparent.user_id;
    if given ~ valid then
      return given;
    end if;
  end if;

  -- Read as text: headers that are no JSON would raise.
  given := substring(current_setting('request.headers', true) from '"traceparent"\s*:\s*"([^"\\]*)"');
  if given ~ valid then
    return given;
  end if;

  given := current_setting('app.traceparent', true);
  return case when given ~ valid then given end;
end
$$;

revoke all
  on function sluice.sign_up_traceparent(uuid)
  from public;

-- Whether this user is to get an instance now, by the owner's settings `provision_when` (created,
-- confirmed) and `provision_anonymous` (on, off). Judged on auth.users where that can be read; a
-- user who is not there is wanted.
create or replace function sluice.wants_instance(user_id uuid)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  only_confirmed boolean;
  no_anonymous boolean;
  found jsonb;
begin
  select
    coalesce(bool_or(name = 'provision_when' and value = 'confirmed'), false),
    coalesce(bool_or(name = 'provision_anonymous' and value = 'off'), false)
  into only_confirmed, no_anonymous
  from sluice.setting;
  if not (only_confirmed or no_anonymous)
    or has_any_column_privilege(sluice.auth_users(), 'select') is not true
  then
    return true;
  end if;

  -- Through jsonb: which of these columns there are depends on the version of the auth server.
  execute 'select to_jsonb(users) from auth.users as users where users.id = $1'
  into found
  using wants_instance.user_id;
  if found is null then
    return true;
  end if;
  return not (no_anonymous and coalesce((found ->> 'is_anonymous')::boolean, false))
    and not (
      only_confirmed
      and coalesce(found ->> 'email_confirmed_at', found ->> 'phone_confirmed_at', found ->> 'confirmed_at') is null
    );
end
$$;

revoke all
  on function sluice.wants_instance(uuid)
  from public;

-- Wakes a relay that sleeps when the calling transaction commits; where none does, nothing is sent:
-- commits that notify take turns. Relays that sleep hold the advisory lock (7318, 1) shared. Before
-- a relay goes to sleep it holds (7318, 2) for a moment alone: it waits for every transaction that
-- found nobody asleep, and looks once more. The setting intake_notify = off says that relays only
-- poll; an app that prepares its transactions (two-phase commit) needs it, for Postgres prepares
-- none that notifies. A notification queue that is half full is left alone: a full one would fail
-- the commit, and the poll is enough. The caller catches.
create or replace function sluice.wake_intake()
returns void
language plpgsql
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
begin
  if not exists (
    select
    from sluice.setting
    where name = 'intake_notify'
      and value = 'on'
  ) then
    return;
  end if;

  -- Taken and given back in one expression, which nothing interrupts.
  if pg_try_advisory_xact_lock_shared(7318, 2)
    and (case when pg_try_advisory_lock(7318, 1) then pg_advisory_unlock(7318, 1) else false end)
  then
    return;
  end if;

  if pg_notification_queue_usage() < 0.5 then
    perform pg_notify('sluice_intake', '');
  end if;
end
$$;

revoke all
  on function sluice.wake_intake()
  from public;

-- One attempt for everything: a block that catches is a subtransaction, and each costs. Where it
-- fails, the queue row and the wake-up are tried again, each for itself. No handler reads the row:
-- it may be what is at fault. The row is written as Sluice's own, so that a sign-up is not noted as
-- hand-made SQL. `on conflict` names no column: a row that is there already, for whatever unique
-- key, means that nothing is to do. It waits for a concurrent sign-up of the same user that has not
-- committed, hence the lock timeout. Arguments: the column with the user's id where it is not `id`,
-- and `judged` where the owner's settings keep some users out.
create or replace function public.handle_profile_evolution_instance()
returns trigger
language plpgsql
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  judged constant boolean := tg_nargs > 1;
  projecting_before constant text := coalesce(current_setting('sluice.projecting', true), '');
  subject uuid;
  given text;
  -- Of a setting that is set: an assignment costs less than a `perform`.
  value text;
begin
  begin
    if tg_nargs = 0 then
      subject := new.id;
    else
      execute format('select ($1).%I', tg_argv[0])
      into subject
      using new;
    end if;
    if judged and not sluice.wants_instance(subject) then
      return null;
    end if;
    given := sluice.sign_up_traceparent(subject);
    value := set_config('sluice.projecting', 'on', true);
    insert into public.evolution_instance_creation_queue (user_id, traceparent)
    values (subject, given)
    on conflict do nothing;
    value := set_config('sluice.projecting', projecting_before, true);
    perform sluice.wake_intake();
    return null;
  exception
    when others then
      raise warning 'sluice: a sign-up is queued without its trace, or without waking the relay: %', sqlerrm;
  end;

  begin
    if subject is null then
      execute format('select ($1).%I', sluice.profiles_key())
      into subject
      using new;
    end if;
    if not judged then
      perform set_config('sluice.projecting', 'on', true);
      insert into public.evolution_instance_creation_queue (user_id, traceparent)
      values (subject, given)
      on conflict do nothing;
      perform set_config('sluice.projecting', projecting_before, true);
    end if;
  exception
    when others then
      raise warning 'sluice: a sign-up was not queued, the relay will find it: %', sqlerrm;
      return null;
  end;

  begin
    perform sluice.wake_intake();
  exception
    when others then
      raise warning 'sluice: the relay was not woken for a sign-up, it will poll: %', sqlerrm;
  end;
  return null;
end
$$;

comment on function public.handle_profile_evolution_instance() is
  'Queues a new profile for its instance. Never raises, and waits at most three times 50 ms: what it misses, the relay''s finder finds.';

revoke all
  on function public.handle_profile_evolution_instance()
  from public;

do $$
declare
  caller text;
begin
  for caller in
    select rolname
    from pg_catalog.pg_roles
    where rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on function public.handle_profile_evolution_instance() from %I', caller);
  end loop;
end
$$;

-- Gives a user a queue row, as the trigger would have, with the trace that they brought. No row
-- where there is one already, or where the owner's settings keep the user out. Returns how many
-- rows were made. Waits for no lock of the app's for longer than the app would notice. For the
-- finder and for auth.users' trigger.
create or replace function sluice.queue_sign_up(user_id uuid)
returns bigint
language plpgsql
security definer
set search_path = ''
set lock_timeout = '100ms'
as $$
declare
  projecting_before constant text := coalesce(current_setting('sluice.projecting', true), '');
  given text;
  queued bigint;
begin
  if not sluice.wants_instance(queue_sign_up.user_id) then
    return 0;
  end if;
  begin
    given := sluice.sign_up_traceparent(queue_sign_up.user_id);
  exception
    when others then
      given := null;
  end;
  perform set_config('sluice.projecting', 'on', true);
  insert into public.evolution_instance_creation_queue (user_id, traceparent)
  values (queue_sign_up.user_id, given)
  on conflict do nothing;
  get diagnostics queued = row_count;
  perform set_config('sluice.projecting', projecting_before, true);
  if queued > 0 then
    perform sluice.wake_intake();
  end if;
  return queued;
end
$$;

revoke all
  on function sluice.queue_sign_up(uuid)
  from public;

-- A user who confirmed an address, or is anonymous no more, where the owner waits for that. Only
-- for users who have a profile and whom the finder would queue. Never raises and never waits.
create or replace function sluice.take_confirmation()
returns trigger
language plpgsql
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  has_profile boolean;
begin
  if not sluice.sign_ups_are_wanted() or sluice.sign_up_trigger_arguments() not like '%judged' then
    return null;
  end if;
  execute format('select exists (select from public.profiles where %I = $1)', sluice.profiles_key())
  into has_profile
  using new.id;
  if has_profile
    and not exists (select from public.evolution_instances as shown where shown.user_id = new.id)
    and not exists (
      select from sluice.run
      where run.subject = new.id::text
        and run.workflow = 'provision-instance'
    )
    and not exists (select from sluice.adoption where adoption.subject = new.id)
  then
    perform sluice.queue_sign_up(new.id);
  end if;
  return null;
exception
  when others then
    raise warning 'sluice: a confirmed user was not queued, the relay will find them: %', sqlerrm;
    return null;
end
$$;

revoke all
  on function sluice.take_confirmation()
  from public;

-- The trigger's arguments as the settings want them; empty where all is as usual.
create or replace function sluice.sign_up_trigger_arguments()
returns text
language sql
stable
security definer
set search_path = ''
as $$
  select case
    when judged.some then sluice.profiles_key() || ', judged'
    when sluice.profiles_key() = 'id' then ''
    else sluice.profiles_key()
  end
  from (
    select exists (
      select
      from sluice.setting
      where (name, value) in (('provision_when', 'confirmed'), ('provision_anonymous', 'off'))
    ) as some
  ) as judged
$$;

-- How the sign-up trigger stands: `on`; `off` (disabled); `dropped` (it was on this very table and
-- somebody took it away); `replaced` (somebody put another function there since); `other` (it is
-- not as it should be); `missing` (it was never on this table); `no table`.
create or replace function sluice.sign_up_trigger_state()
returns text
language sql
stable
security definer
set search_path = ''
as $$
  select case
    when key.name is null then 'no table'
    when present.tgname is null and was.here then 'dropped'
    when present.tgname is null then 'missing'
    when present.is_ours and present.tgenabled = 'D' then 'off'
    when present.is_ours and present.arguments = wanted.arguments then 'on'
    when not present.calls_ours and was.here then 'replaced'
    else 'other'
  end
  from (select sluice.profiles_key() as name) as key
  cross join lateral (
    select exists (
      select
      from sluice.setting
      where name = 'sign_up_trigger_on'
        and value = to_regclass('public.profiles')::oid::text
    ) as here
  ) as was
  cross join lateral (select sluice.sign_up_trigger_arguments() as arguments) as wanted
  left join lateral (
    select
      tgname,
      tgenabled,
      tgfoid = to_regprocedure('public.handle_profile_evolution_instance()') as calls_ours,
      -- after insert, for each row
      tgtype = 5
        and tgqual is null
        and tgfoid = to_regprocedure('public.handle_profile_evolution_instance()') as is_ours,
      array_to_string(
        (string_to_array(encode(tgargs, 'escape'), '\000'))[1:tgnargs],
        ', '
      ) as arguments
    from pg_catalog.pg_trigger
    where tgrelid = to_regclass('public.profiles')
      and tgname = 'on_profile_created_create_evolution_instance'
      and not tgisinternal
  ) as present
    on true
$$;

-- Whether sign-ups are to be queued at all. An owner who drops or disables the trigger, or says
-- SIGN_UP_TRIGGER=off, means that they are not.
create or replace function sluice.sign_ups_are_wanted()
returns boolean
language sql
stable
security definer
set search_path = ''
as $$
  select case coalesce((select value from sluice.setting where name = 'sign_up_trigger'), '')
    when 'on' then true
    when 'off' then false
    else sluice.sign_up_trigger_state() not in ('off', 'dropped', 'replaced', 'no table')
  end
$$;

-- For the owner only: makes the sign-up trigger, or puts it right.
create or replace function sluice.make_sign_up_trigger()
returns void
language plpgsql
set search_path = ''
as $$
begin
  drop trigger if exists on_profile_created_create_evolution_instance
    on public.profiles;
  execute format(
    'create trigger on_profile_created_create_evolution_instance
      after insert on public.profiles
      for each row
      execute function public.handle_profile_evolution_instance(%s)',
    (
      select string_agg(quote_literal(argument), ', ')
      from unnest(string_to_array(nullif(sluice.sign_up_trigger_arguments(), ''), ', ')) as argument
    )
  );
end
$$;

comment on function sluice.make_sign_up_trigger() is 'For the owner only: makes the sign-up trigger.';

-- Users who signed up in the last `since` and have nothing: no queue row, no instance row, no run.
-- Never those whom the first migration found (sluice.adoption). A profile's moment is its own
-- created_at or, where it has none, its user's; one without a moment is always looked at, and all
-- are where `since` is a year or more: users may write the moment. Where the owner waits for
-- confirmations, also users whom the auth server changed in that time.
create or replace function sluice.lost_sign_ups(since interval)
returns table (user_id uuid, made_at timestamptz)
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  key constant name := sluice.profiles_key();
  moment text;
  users text := '';
  recent text;
begin
  if key is null
    or not sluice.sign_ups_are_wanted()
    or not exists (select from sluice.setting where name = 'profiles_seen_at')
  then
    return;
  end if;

  if exists (
    select
    from pg_catalog.pg_attribute
    where attrelid = to_regclass('public.profiles')
      and attname = 'created_at'
      and not attisdropped
  ) then
    moment := 'profiles.created_at';
  elsif has_any_column_privilege(sluice.auth_users(), 'select') then
    moment := 'users.created_at';
    users := format('left join auth.users on users.id = profiles.%I', key);
  else
    moment := 'null';
  end if;

  recent := format('%1$s > now() - $1 or %1$s is null', moment);
  if sluice.sign_up_trigger_arguments() like '%judged' and exists (
    select
    from pg_catalog.pg_attribute
    where attrelid = sluice.auth_users()
      and attname = 'updated_at'
      and not attisdropped
      and has_table_privilege(attrelid, 'select')
  ) then
    recent := format(
      '%s or profiles.%I in (select changed.id from auth.users as changed where changed.updated_at > now() - $1)',
      recent,
      key
    );
  end if;

  -- Whether the user is wanted is asked last, of the few who are left.
  return query execute format(
    $query$
      select lost.id, lost.made_at
      from (
        select profiles.%1$I as id, (%2$s)::timestamptz as made_at
        from public.profiles
        %3$s
        where (%4$s)
          and not exists (select from public.evolution_instance_creation_queue as queue where queue.user_id = profiles.%1$I)
          and not exists (select from public.evolution_instances as shown where shown.user_id = profiles.%1$I)
          and not exists (
            select from sluice.run
            where run.subject = profiles.%1$I::text
              and run.workflow = 'provision-instance'
          )
          and not exists (select from sluice.adoption where adoption.subject = profiles.%1$I)
        offset 0
      ) as lost
      where sluice.wants_instance(lost.id)
    $query$,
    key,
    moment,
    users,
    case when since >= interval '1 year' then 'true' else recent end
  )
  using since;
end
$$;

revoke all
  on function sluice.lost_sign_ups(interval)
  from public;

-- The user whose profile has this address, written as it is there or in lower case; null where
-- nobody's has. With the caller's own rights. Raises where profiles hold no addresses.
create or replace function sluice.user_of_email(email text)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  key constant name := sluice.profiles_key();
  found uuid;
begin
  if key is null or not exists (
    select
    from pg_catalog.pg_attribute
    where attrelid = to_regclass('public.profiles')
      and attname = 'email'
      and not attisdropped
  ) then
    raise exception 'public.profiles has no column email'
      using errcode = 'undefined_column';
  end if;
  execute format('select %1$I from public.profiles where email in ($1, lower($1)) order by %1$I limit 1', key)
  into found
  using user_of_email.email;
  return found;
end
$$;

revoke all
  on function sluice.user_of_email(text)
  from public;

-- Which of these users are gone: there is no profile of theirs any more (no row in auth.users,
-- where there is no profiles table). The ledger asks before anything is made for them
-- (sluice.workflow). Nobody is gone where that cannot be told: the table is locked, or row level
-- security hides its rows from us. Never raises, and waits 50 ms at most.
create or replace function sluice.gone_users(subjects text[])
returns text[]
language plpgsql
stable
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  key name;
  people regclass;
  asked uuid[];
  there uuid[];
begin
  key := sluice.profiles_key();
  people := case when key is null then sluice.auth_users() else to_regclass('public.profiles') end;
  if people is null or row_security_active(people) then
    return '{}';
  end if;
  asked := array(
    select subject::uuid
    from unnest(subjects) as subject
    where subject ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
  );
  -- Asked at each first claim. The statements of the usual projects keep their plans.
  if key = 'id' then
    there := array(select id from public.profiles where id = any (asked));
  elsif key is null then
    there := array(select id from auth.users where id = any (asked));
  else
    execute format('select array(select %1$I from public.profiles where %1$I = any ($1))', key)
    into there
    using asked;
  end if;
  return array(select subject::text from unnest(asked) as subject where subject <> all (there));
exception
  when others then
    raise warning 'sluice: it cannot be told whether users are gone: %', sqlerrm;
    return '{}';
end
$$;

revoke all
  on function sluice.gone_users(text[])
  from public;

-- What happens at a sign-up, and whether it is set up so. The foreign keys are added unchecked, so
-- that the lock on the app's tables is held for no scan; `sluice.slow_changes()` validates them.
create or replace function sluice.wanted_sign_up()
returns table (rank integer, item text, present boolean, change text, without text, mend text)
language plpgsql
stable
set search_path = ''
as $$
declare
  state constant text := sluice.sign_up_trigger_state();
  decided constant text := (select value from sluice.setting where name = 'sign_up_trigger');
  target constant regclass := coalesce(to_regclass('public.profiles'), sluice.auth_users());
  target_key constant name := case
    when to_regclass('public.profiles') is null then 'id'
    else sluice.profiles_key()
  end;
  judged constant boolean := sluice.sign_up_trigger_arguments() like '%judged';
begin
  return query
  select
    20,
    'table public.profiles',
    state <> 'no table',
    null::text,
    'sign-ups are not seen',
    'make it (one column with the user''s id as uuid), then run `sluice migrate`'
  where decided is distinct from 'off';

  return query
  select
    21,
    'trigger on_profile_created_create_evolution_instance on public.profiles',
    case
      when decided = 'off' then state in ('off', 'dropped', 'missing', 'replaced')
      else state = 'on'
    end,
    case
      when decided = 'off' then
        'alter table public.profiles disable trigger on_profile_created_create_evolution_instance'
      when state = 'off' and decided = 'on' then
        'alter table public.profiles enable trigger on_profile_created_create_evolution_instance'
      when state in ('missing', 'other') or decided = 'on' then 'select sluice.make_sign_up_trigger()'
    end,
    case
      when decided = 'off' then 'SIGN_UP_TRIGGER=off, and sign-ups are queued'
      when state = 'off' then 'it is disabled: sign-ups are not queued, nor looked for'
      when state = 'dropped' then 'it was dropped: sign-ups are not queued, nor looked for'
      when state = 'replaced' then 'it calls another function than Sluice''s: sign-ups are not queued, nor looked for'
      else 'sign-ups are not queued at once'
    end,
    case
      when state in ('off', 'dropped', 'replaced') then
        '`sluice migrate --sign-up-trigger on` (SIGN_UP_TRIGGER) brings it back, and off says that it is meant'
      else 'run `sluice migrate` as a role that may put triggers on public.profiles'
    end
  where state <> 'no table';

  return query
  select
    22,
    'usage of schema auth',
    has_schema_privilege(auth.oid, 'usage'),
    null::text,
    'users do not see their own rows, and what the auth server knows of a user is not asked',
    format('as its owner: grant usage on schema auth to %I', current_user)
  from pg_catalog.pg_namespace as auth
  where auth.nspname = 'auth';

  return query
  select
    22,
    'the right to read auth.users',
    has_any_column_privilege(sluice.auth_users(), 'select'),
    null::text,
    'PROVISION_WHEN and PROVISION_ANONYMOUS cannot be judged: everybody gets an instance',
    format('as its owner: grant select on auth.users to %I', current_user)
  where judged
    and sluice.auth_users() is not null;

  return query
  select
    22,
    'trigger sluice_take_confirmation on auth.users',
    judged = exists (
      select
      from pg_catalog.pg_trigger
      where tgrelid = users.oid
        and tgname = 'sluice_take_confirmation'
    )
      -- Only its owner can take it away; it does nothing then.
      or (not judged and not pg_has_role(current_user, users.relowner, 'usage')),
    case
      when judged then
        'create trigger sluice_take_confirmation
          after update on auth.users
          for each row
          when (
            (to_jsonb(old) - ''updated_at'' - ''last_sign_in_at'') is distinct from
              (to_jsonb(new) - ''updated_at'' - ''last_sign_in_at'')
          )
          execute function sluice.take_confirmation()'
      else 'drop trigger sluice_take_confirmation on auth.users'
    end,
    case when judged then 'who confirms later is found within half a minute, not at once' else 'it is asked for nothing' end,
    'run `sluice migrate` as a role that may put triggers on auth.users'
  from pg_catalog.pg_class as users
  where users.oid = sluice.auth_users();

  -- A user who goes takes the two rows along.
  return query
  select
    23,
    format('foreign key from %s to %s', face.relation, target),
    exists (
      select
      from pg_catalog.pg_constraint
      where conrelid = face.relation
        and contype = 'f'
        and confrelid = target
        and conkey = array[user_id.attnum]
    ),
    format(
      'alter table %s add constraint %I foreign key (user_id) references %s (%I) on delete cascade not valid',
      face.relation,
      format('%s_%s_fkey', class.relname, (select relname from pg_catalog.pg_class where oid = target)),
      target,
      target_key
    ),
    'the row of a user who goes stays',
    format('as the owner of %s: grant references on %s to %I', target, target, current_user)
  from (
    values
      (to_regclass('public.evolution_instance_creation_queue')),
      (to_regclass('public.evolution_instances'))
  ) as face (relation)
  join pg_catalog.pg_class as class
    on class.oid = face.relation
  join pg_catalog.pg_attribute as user_id
    on user_id.attrelid = face.relation
    and user_id.attname = 'user_id'
    and not user_id.attisdropped
  where target is not null
    and target_key is not null;

  -- What the finder reads every minute: the newest profiles.
  return query
  select
    24,
    'an index on public.profiles (created_at)',
    exists (
      select
      from pg_catalog.pg_index
      where indrelid = held.attrelid
        and indkey[0] = held.attnum
        and indpred is null
        and indisvalid
    ),
    case
      when sluice.is_small(held.attrelid) then 'create index profiles_created_at on public.profiles (created_at)'
    end,
    'the search for lost sign-ups is slow',
    'create index concurrently profiles_created_at on public.profiles (created_at)'
  from pg_catalog.pg_attribute as held
  where held.attrelid = to_regclass('public.profiles')
    and held.attname = 'created_at'
    and not held.attisdropped;
end
$$;
