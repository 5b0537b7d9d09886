-- The public face, part two: what happens in the user's sign-up transaction.
-- The promise: a sign-up never fails and never waits because of Sluice. Each step is caught and warned about on its
-- own; no lock is awaited longer than 50 ms (20 times below deadlock_timeout); a sign-up that is lost here is found
-- by the relay's finder. May be run again at any time, and must be where public.profiles was made later.

create schema if not exists sluice;

-- The trace context that the app gave for this user, or null. Sources, the first valid one wins: the user's metadata
-- (`signUp({ options: { data: { traceparent } } })`), PostgREST's request headers, the setting app.traceparent.
-- Whoever signs up writes it, so it is a claim: only the plain W3C form passes, its flags are kept as given, and the
-- relay decides about sampling by itself. Never raises.
create or replace function sluice.sign_up_traceparent(user_id uuid)
returns text
language plpgsql
stable
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  source text;
  candidate text;
begin
  foreach source in array array['metadata', 'headers', 'setting'] loop
    candidate := null;
    begin
      if source = 'metadata' and to_regclass('auth.users') is not null then
        select users.raw_user_meta_data ->> 'traceparent'
        into candidate
        from auth.users as users
        where users.id = sign_up_traceparent.user_id;
      elsif source = 'headers' then
        candidate := nullif(current_setting('request.headers', true), '')::json ->> 'traceparent';
      elsif source = 'setting' then
        candidate := current_setting('app.traceparent', true);
      end if;
    exception
      when others then
        candidate := null;
    end;

    if candidate ~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' then
      return candidate;
    end if;
  end loop;
  return null;
end
$$;

revoke all
  on function sluice.sign_up_traceparent(uuid)
  from public;

-- Wakes the relay when the calling transaction commits, unless the setting says that it only polls, or the
-- notification queue is half full (a full one would fail the commit, and the poll is enough). The caller catches.
create or replace function sluice.wake_intake()
returns void
language plpgsql
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
begin
  if exists (
    select
    from sluice.setting
    where name = 'intake_notify'
      and value = 'on'
  ) and pg_notification_queue_usage() < 0.5 then
    perform pg_notify('sluice_intake', '');
  end if;
end
$$;

revoke all
  on function sluice.wake_intake()
  from public;

-- Three separate attempts, because each must survive the loss of the others: trace context, queue row, wake-up.
-- The row is written as Sluice's own, so that a sign-up is not noted as hand-made SQL.
-- `on conflict` names no column: a row that is there already, for whatever unique key, means that nothing is to do.
-- It waits for a concurrent sign-up of the same user that has not committed, hence the lock timeout.
create or replace function public.handle_profile_evolution_instance()
returns trigger
language plpgsql
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  projecting_before constant text := coalesce(current_setting('sluice.projecting', true), '');
  given text;
begin
  begin
    given := sluice.sign_up_traceparent(new.id);
  exception
    when others then
      raise warning 'sluice: the trace context of user % was not kept: %', new.id, sqlerrm;
  end;

  begin
    perform set_config('sluice.projecting', 'on', true);
    insert into public.evolution_instance_creation_queue (user_id, traceparent)
    values (new.id, given)
    on conflict do nothing;
    perform set_config('sluice.projecting', projecting_before, true);
  exception
    when others then
      raise warning 'sluice: the sign-up of user % was not queued, the relay will find it: %', new.id, sqlerrm;
  end;

  begin
    perform sluice.wake_intake();
  exception
    when others then
      raise warning 'sluice: the relay was not woken for user %, it will poll: %', new.id, sqlerrm;
  end;
  return null;
end
$$;

comment on function public.handle_profile_evolution_instance() is
  'Queues a new profile for its instance. Never raises and never waits: what it misses, the relay''s finder finds.';

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

-- A user who goes takes the two rows along. Added unchecked, so that the lock on the app's tables is held for no scan: a
-- later file validates what is there. Without profiles, auth.users is what the keys refer to.
do $$
declare
  target constant regclass := coalesce(to_regclass('public.profiles'), to_regclass('auth.users'));
  face record;
begin
  if target is null then
    raise notice 'sluice: neither public.profiles nor auth.users exists: run this file again when one does';
    return;
  end if;

  set local lock_timeout = '500ms';
  for face in
    select
      class.oid::regclass as relation,
      format('%s_%s_fkey', class.relname, (select relname from pg_catalog.pg_class where oid = target)) as wanted,
      user_id.attnum
    from pg_catalog.pg_class as class
    join pg_catalog.pg_attribute as user_id
      on user_id.attrelid = class.oid
      and user_id.attname = 'user_id'
    where class.oid in (
      'public.evolution_instance_creation_queue'::regclass,
      'public.evolution_instances'::regclass
    )
  loop
    if not exists (
      select
      from pg_catalog.pg_constraint
      where conrelid = face.relation
        and contype = 'f'
        and confrelid = target
        and conkey = array[face.attnum]
    ) then
      begin
        execute format(
          'alter table %s add constraint %I foreign key (user_id) references %s (id) on delete cascade not valid',
          face.relation, face.wanted, target
        );
      exception
        when insufficient_privilege or datatype_mismatch or invalid_foreign_key or undefined_column then
          raise notice 'sluice: no foreign key from % to %: %', face.relation, target, sqlerrm;
      end;
    end if;
  end loop;
end
$$;

-- The trigger. One that is there and calls our function is left alone, a disabled one too: somebody disabled it.
do $$
declare
  profiles constant regclass := to_regclass('public.profiles');
  present record;
begin
  if profiles is null then
    raise notice 'sluice: public.profiles does not exist: run this file again when it does, sign-ups are not seen yet';
    return;
  end if;

  set local lock_timeout = '500ms';
  select
    trigger_row.tgenabled,
    -- after insert, for each row
    trigger_row.tgtype = 5
      and trigger_row.tgqual is null
      and trigger_row.tgfoid = 'public.handle_profile_evolution_instance()'::regprocedure as ours
  into present
  from pg_catalog.pg_trigger as trigger_row
  where trigger_row.tgrelid = profiles
    and trigger_row.tgname = 'on_profile_created_create_evolution_instance'
    and not trigger_row.tgisinternal;

  if found and present.ours then
    if present.tgenabled = 'D' then
      raise notice 'sluice: the sign-up trigger is disabled and stays so'
        using hint = 'alter table public.profiles enable trigger on_profile_created_create_evolution_instance';
    end if;
    return;
  end if;

  if found then
    drop trigger on_profile_created_create_evolution_instance
      on public.profiles;
  end if;
  create trigger on_profile_created_create_evolution_instance
    after insert on public.profiles
    for each row
    execute function public.handle_profile_evolution_instance();
end
$$;
