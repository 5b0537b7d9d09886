-- What takes time on the app's tables, apart from the files that lock them: each statement here has a lock of its own, and
-- none that sign-ups wait for while rows are read. May be run again at any time.

-- The foreign keys of the two tables, which were added unchecked. Validating reads the rows under a lock that stops no
-- insert, update or delete. Rows whose user is gone are reported and kept, and the key holds for new rows all the same;
-- once they are gone, a further run validates it.
do $$
declare
  target constant regclass := coalesce(to_regclass('public.profiles'), to_regclass('auth.users'));
  key record;
begin
  set local lock_timeout = '500ms';
  for key in
    select
      conrelid::regclass as relation,
      conname
    from pg_catalog.pg_constraint
    where conrelid in (
        'public.evolution_instance_creation_queue'::regclass,
        'public.evolution_instances'::regclass
      )
      and contype = 'f'
      and confrelid = target
      and not convalidated
      and conkey = array[(
        select attnum
        from pg_catalog.pg_attribute
        where attrelid = conrelid
          and attname = 'user_id'
      )]
  loop
    begin
      execute format('alter table %s validate constraint %I', key.relation, key.conname);
    exception
      when foreign_key_violation then
        raise notice 'sluice: % has rows whose user is not in %: they are kept, and the key holds for new rows',
          key.relation, target;
    end;
  end loop;
end
$$;

-- What the finder reads every minute: the newest profiles. Last, since it stops inserts while it is built and until this
-- file is committed: a moment. A large table is not locked for it; the notice says how.
do $$
declare
  profiles constant regclass := to_regclass('public.profiles');
  created_at smallint;
begin
  select attnum
  into created_at
  from pg_catalog.pg_attribute
  where attrelid = profiles
    and attname = 'created_at'
    and not attisdropped;

  if created_at is null or exists (
    select
    from pg_catalog.pg_index
    where indrelid = profiles
      and indkey[0] = created_at
      and indpred is null
  ) then
    return;
  end if;

  if pg_table_size(profiles) > 32 * 1024 * 1024 then
    raise notice 'sluice: public.profiles is too large to be indexed here; the finder is slow until it is'
      using hint = 'create index concurrently profiles_created_at on public.profiles (created_at)';
    return;
  end if;
  set local lock_timeout = '500ms';
  create index profiles_created_at
    on public.profiles (created_at);
exception
  when insufficient_privilege then
    raise notice 'sluice: no index on profiles (created_at): %', sqlerrm;
end
$$;
