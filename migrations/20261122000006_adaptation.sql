-- What depends on the state of the database (roles, grants, policies, triggers, keys, the
-- publication, columns of the app's tables) is looked at again at the end of every `sluice
-- migrate`, and whenever somebody asks. May be run again at any time. After this came from another
-- tool than `sluice migrate`, or after a change of the app: select * from sluice.adapt().

create schema if not exists sluice;

-- All that should be there, a row each: whether it is, the statement that brings it about (none
-- where only a person can), what is lost without it, and what a person does about it. Ranks say in
-- which order they are brought about: profiles before the queue, as sign-ups lock them.
create or replace function sluice.wanted()
returns table (rank integer, item text, present boolean, change text, without text, mend text)
language sql
stable
set search_path = ''
as $$
  select * from sluice.wanted_tables()
  union all
  select * from sluice.wanted_sign_up()
  union all
  select * from sluice.wanted_commands()
  union all
  select * from sluice.wanted_access()
$$;

-- What is not as it should be: for `migrate --check` and for the services, at their start and while
-- they run. Changes nothing.
create or replace function sluice.missing()
returns table (item text, without text, mend text)
language sql
stable
security definer
set search_path = ''
set jit = off
as $$
  select
    lacking.item,
    lacking.without,
    lacking.mend
  from (
    select
      0 as rank,
      unfit.problem as item,
      'Sluice cannot work with it' as without,
      unfit.mend
    from sluice.unfit() as unfit
    union all
    select
      wanted.rank,
      wanted.item,
      wanted.without,
      case when wanted.change is null then wanted.mend else 'run `sluice migrate`' end
    from sluice.wanted() as wanted
    where not wanted.present
  ) as lacking
  order by lacking.rank, lacking.item
$$;

-- For the owner only: brings everything to what it should be, as far as the caller may, and returns
-- a line for each thing that it did or could not do. Needs no more than milliseconds of any lock on
-- the app's tables; where it has to wait for one it gives up (SQLSTATE 55P03) rather than make
-- sign-ups queue behind it, and nothing is changed: call it again.
create or replace function sluice.adapt()
returns table (item text, done boolean, without text, mend text)
language plpgsql
set search_path = ''
set jit = off
set client_min_messages = warning
as $$
declare
  wish record;
  tried text[] := '{}';
  failed text[] := '{}';
  missing jsonb;
  changed boolean;
begin
  perform set_config('lock_timeout', '100ms', true);
  -- Reads much and locks nothing: before the first lock.
  perform sluice.note_adoption();

  -- One thing may be wanted once another is there. The last round finds nothing left to do.
  loop
    changed := false;
    missing := '[]';
    for wish in
      select *
      from sluice.wanted() as wanted
      where not wanted.present
        and wanted.item <> all(failed)
      order by wanted.rank, wanted.item
    loop
      if wish.change is null or wish.item = any(tried) then
        missing := missing || to_jsonb(wish);
        continue;
      end if;
      tried := tried || wish.item;
      item := wish.item;
      -- Another database's migration may be making the role of them all; nothing of the app's is
      -- locked before that.
      perform set_config('lock_timeout', case wish.rank when 1 then '5s' else '100ms' end, true);
      begin
        execute wish.change;
        changed := true;
        done := true;
        without := null;
        mend := null;
      exception
        when lock_not_available or deadlock_detected then
          raise;
        when others then
          failed := failed || wish.item;
          done := false;
          without := format('%s (%s)', wish.without, sqlerrm);
          mend := wish.mend;
      end;
      return next;
    end loop;
    exit when not changed;
  end loop;

  -- From now on a trigger that is gone from this very table was taken away by somebody.
  if sluice.sign_up_trigger_state() = 'on' then
    insert into sluice.setting as setting (name, value, note)
    values (
      'sign_up_trigger_on',
      to_regclass('public.profiles')::oid::text,
      'The table that the sign-up trigger was last seen on.'
    )
    on conflict (name) do update
      set value = excluded.value
      where setting.value <> excluded.value;
  end if;

  return query
  select
    left_over ->> 'item',
    false,
    left_over ->> 'without',
    left_over ->> 'mend'
  from jsonb_array_elements(missing) as left_over;
end
$$;

comment on function sluice.adapt() is 'For the owner only: brings what depends on the database''s state to what it should be.';

-- For the owner only: the same for whoever runs these files with another tool, a notice for each
-- line.
create or replace function sluice.adapt_and_tell()
returns void
language plpgsql
set search_path = ''
as $$
declare
  line record;
begin
  for line in
    select *
    from sluice.adapt()
  loop
    if line.done then
      raise notice 'sluice: brought about: %', line.item;
    else
      raise notice 'sluice: missing: %: %', line.item, line.without
        using hint = line.mend;
    end if;
  end loop;
end
$$;

comment on function sluice.adapt_and_tell() is 'For the owner only: sluice.adapt() with notices.';

-- What takes long on a large table and therefore happens outside every other transaction, a
-- statement at a time: what it is, the statement (none where a person must act first), whether it
-- must stand alone (no transaction), what to run before it, and what is lost without it. None holds
-- a lock that a sign-up waits for while it reads rows.
create or replace function sluice.slow_changes()
returns table (item text, change text, alone boolean, before text, without text, mend text)
language plpgsql
stable
set search_path = ''
as $$
declare
  queue constant regclass := to_regclass('public.evolution_instance_creation_queue');
  instances constant regclass := to_regclass('public.evolution_instances');
  profiles constant regclass := to_regclass('public.profiles');
  status_is_ours constant boolean := exists (
    select
    from pg_catalog.pg_trigger
    where tgrelid = instances
      and tgname = 'zz_sluice_keep_status'
  );
  wish record;
  found boolean;
begin
  for wish in
    select
      conrelid::regclass as relation,
      conname,
      contype
    from pg_catalog.pg_constraint
    where conrelid in (queue, instances)
      and not convalidated
      and (contype = 'f' or conname = 'evolution_instance_creation_queue_status_check')
      and (contype = 'c' or confrelid = coalesce(profiles, sluice.auth_users()))
  loop
    item := format('all rows of %s keep %s', wish.relation, wish.conname);
    change := format('alter table %s validate constraint %I', wish.relation, wish.conname);
    alone := false;
    before := null;
    without := 'old rows break it: they are kept, and it holds for new ones';
    mend := case wish.contype
      when 'f' then 'delete the rows of users who are gone, then run `sluice migrate`'
      else 'give them a status that the guide names, then run `sluice migrate`'
    end;
    return next;
  end loop;

  for wish in
    select
      wanted.relation,
      wanted.name,
      'sluice_' || wanted.short || '_' || wanted.name || '_key' as index
    from (
      values
        (queue, 'queue', 'user_id'),
        (instances, 'instances', 'user_id'),
        (instances, 'instances', 'instance_name')
    ) as wanted (relation, short, name)
    join sluice.wanted_tables() as known
      on known.item = format('unique %s.%s', wanted.relation, wanted.name)
    where not known.present
      and known.change is null
  loop
    execute format(
      'select exists (select from %s where %2$I is not null group by %2$I having count(*) > 1)',
      wish.relation, wish.name
    )
    into found;
    item := format('unique %s.%s', wish.relation, wish.name);
    change := case
      when not found then format('create unique index concurrently %I on %s (%I)', wish.index, wish.relation, wish.name)
    end;
    alone := true;
    before := format('drop index concurrently if exists public.%I', wish.index);
    without := 'several rows of one user: Sluice cannot write theirs';
    mend := format('keep one row of each %s, then run `sluice migrate`', wish.name);
    return next;
  end loop;

  if exists (
    select
    from sluice.wanted_tables() as known
    where known.item = 'index evolution_instance_creation_queue_pending'
      and not known.present
      and known.change is null
  ) then
    item := 'index evolution_instance_creation_queue_pending';
    change := format(
      'create index concurrently evolution_instance_creation_queue_pending on %s (created_at) where status = ''pending''',
      queue
    );
    alone := true;
    before := 'drop index concurrently if exists public.evolution_instance_creation_queue_pending';
    without := 'intake reads the whole queue each time';
    mend := change;
    return next;
  end if;

  if exists (
    select
    from sluice.wanted_sign_up() as known
    join pg_catalog.pg_class as class
      on class.oid = profiles
    where known.item = 'an index on public.profiles (created_at)'
      and not known.present
      and known.change is null
      and pg_has_role(current_user, class.relowner, 'usage')
  ) then
    item := 'an index on public.profiles (created_at)';
    change := 'create index concurrently sluice_profiles_created_at on public.profiles (created_at)';
    alone := true;
    before := 'drop index concurrently if exists public.sluice_profiles_created_at';
    without := 'the search for lost sign-ups is slow';
    mend := change;
    return next;
  end if;

  if status_is_ours then
    execute format('select exists (select from %s where status is distinct from instance_status)', instances)
    into found;
    if found then
      item := format('%s.status of old rows', instances);
      change := 'select sluice.fill_status(500)';
      alone := false;
      before := null;
      without := 'the guide''s queries show no status for them';
      mend := 'run `sluice migrate`';
      return next;
    end if;
  end if;
end
$$;

comment on function sluice.slow_changes() is 'For the owner only: what takes long on large tables, a statement each.';
